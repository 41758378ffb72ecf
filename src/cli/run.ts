/** The command line as a function: arguments in, exit code out. */
import yargs, { type Argv } from 'yargs';

import { invalidArgument } from '../errors.js';
import { VERSION } from '../files/package-files.js';
import { type Command, EXIT, type Io } from './command.js';
import { COMMANDS } from './commands.js';
import { COMPLETION_REQUEST, completionsOf } from './complete.js';
import { commandName, COMMON_FLAGS, type Flag, flagsOf, flagWords, positionalsOf } from './flags.js';
import { Invocation, UsageError } from './invocation.js';
import { arrangePrompts } from './prompts.js';
import { throwRefused } from './refused.js';
import { nearest } from './suggest.js';
import { flagMeantBy, MODEL_NAMES } from './words.js';

export { COMMANDS };

/** Columns of help: as many as the terminal has, within reason. */
const WIDEST = 100;
const NARROWEST = 40;

/**
 * Runs the command line. Never throws and never ends the process.
 * @param argv arguments without `node` and the script
 * @returns 0; 1 for an unexpected failure; 2 for bad input or a bad environment; 130 after an interrupt
 */
export async function run(argv: readonly string[], io: Io): Promise<number> {
  if (argv[0] === COMPLETION_REQUEST) {
    for (const word of completionsOf(argv.slice(1), COMMANDS)) io.stdout.write(`${word}\n`);
    return EXIT.ok;
  }
  const command = COMMANDS.find((one) => commandName(one) === flagWords(argv).find(isCommand));
  const invocation = new Invocation(argv, io, command);
  const { context } = invocation;
  let exitCode: number = EXIT.ok;
  try {
    if (argv[0] === 'help' && argv[1] !== undefined && !command) throw new UsageError('Unknown command');
    if (command && !asksOnly(argv)) await invocation.readSettings(command);
    const parser = yargs()
      .scriptName('jit-flux')
      .usage('$0 <command>\n\nFLUX image generation in Node, accelerated by Just-in-Time sparse sampling')
      .locale('en')
      .parserConfiguration({
        'dot-notation': false,
        'camel-case-expansion': false,
        'parse-positional-numbers': false,
        // Prompts may begin with a dash.
        'populate--': true,
      })
      .middleware(takeLast, true)
      .options(COMMON_FLAGS)
      .strict()
      .demandCommand(1, 'Name a command')
      .exitProcess(false)
      .showHelpOnFail(false)
      .fail((message: string | null, error: Error | undefined) => {
        throw error ?? new UsageError(message ?? 'Invalid command line');
      })
      .alias('h', 'help')
      .version(VERSION)
      .alias('V', 'version')
      // In the epilogue: the parser would put it in front of all others.
      .completion('completion', false)
      .epilogue(
        'Exit codes: 0 success, 1 unexpected failure, 2 bad input or environment, 130 interrupted (SIGTERM: 143). ' +
          '`jit-flux completion` prints a script with which bash or zsh ($SHELL) completes what is typed.',
      )
      .wrap(Math.min(WIDEST, Math.max(NARROWEST, io.stdout.columns ?? WIDEST)));
    for (const one of COMMANDS) {
      const { command, describe, builder, run: execute } = one;
      const build = (argv: Argv) => {
        const built = builder(argv);
        for (const [flag, { value }] of invocation.settings) built.default(flag, value);
        return built.middleware([refuseNegations(flagsOf(one)), throwRefused], true);
      };
      parser.command(command, describe, build, async (args) => {
        exitCode = (await execute(args as never, context)) ?? EXIT.ok;
      });
    }
    let output = '';
    await parser.parseAsync(wordsOf(argv), {}, (_error, _args, text) => {
      output = text;
    });
    // Help, version and the script of completions.
    if (output !== '') io.stdout.write(`${output}\n`);
    return argv.length === 0 ? EXIT.badInput : exitCode;
  } catch (error) {
    return invocation.report(error instanceof UsageError ? withSuggestion(error, command, argv) : error);
  } finally {
    invocation.end();
  }
}

const isCommand = (word: string) => COMMANDS.some((one) => commandName(one) === word);

/** Help or version: no defaults are looked for, and none that is wrong is in the way. */
function asksOnly(argv: readonly string[]): boolean {
  const words = flagWords(argv);
  return argv[0] === 'help' || words.some((word) => ASKING.includes(word));
}

const ASKING: readonly string[] = ['-h', '--help', '-V', '--version'];

/** As the parser takes them. No words at all, and `help`, ask for help. */
function wordsOf(argv: readonly string[]): string[] {
  const [command, ...rest] = argv;
  if (command === undefined) return ['--help'];
  return command === 'help' ? [...rest, '--help'] : arrangePrompts(argv);
}

/** For a command, flag or word that there is not, the one that was meant, and for one that is missing its name. */
function withSuggestion(
  error: UsageError,
  command: Command | undefined,
  argv: readonly string[],
): UsageError {
  const [, unknown] = /^Unknown (?:arguments?|commands?): (.+?)(?:, |$)/s.exec(error.message) ?? [];
  if (command === undefined) return withoutCommand(error, argv);
  const [, there] = /^Not enough non-option arguments: got (\d+)/.exec(error.message) ?? [];
  if (there !== undefined) {
    const missing = positionalsOf(command).slice(Number(there));
    return new UsageError(`Missing <${missing.join('> and <')}>: jit-flux ${command.command}`);
  }
  if (unknown === undefined) return error;
  const flags = [...flagsOf(command).keys()];
  if (MODEL_NAMES.includes(unknown) && flags.includes('model')) {
    return new UsageError(`${error.message}; did you mean --model ${unknown}?`);
  }
  const meant = flagMeantBy(unknown, flags);
  return meant === undefined ? error : new UsageError(`${error.message}; did you mean --${meant}?`);
}

/** What was meant where no command is named: one, a flag of the program, or a prompt. */
function withoutCommand(error: UsageError, argv: readonly string[]): UsageError {
  const words = flagWords(argv);
  const word = words.find((one) => !one.startsWith('-') && one !== 'help');
  if (word === undefined) {
    const typed = words.find((one) => one.startsWith('--'))?.slice(2);
    const meant = typed && nearest(typed, ['help', 'version']);
    return meant ? new UsageError(`Unknown flag: --${typed}; did you mean --${meant}?`) : error;
  }
  if (/\s/.test(word)) return new UsageError(`Name a command: jit-flux generate ${JSON.stringify(word)}`);
  const meant = nearest(word, COMMANDS.map(commandName));
  const flag = ['help', 'version'].find((one) => one === word);
  const suggestion = meant ?? (flag && `--${flag}`);
  return new UsageError(
    `Unknown command: ${word}${suggestion === undefined ? '' : `; did you mean ${suggestion}?`}`,
  );
}

/** Only a switch can be negated; of another flag the parser would make `false`. `--no-config` is without a file. */
function refuseNegations(flags: ReadonlyMap<string, Flag>): (args: Record<string, unknown>) => void {
  return (args) => {
    for (const { name, isBoolean } of flags.values()) {
      if (isBoolean || args[name] !== false || name === 'config') continue;
      throw invalidArgument(name, 'a value, as it is no switch,', `--no-${name}`);
    }
  };
}

/** Lists that are meant as such: words, not flags. */
const WORDS: readonly string[] = ['_', '--', 'prompt'];

/** Of a flag that was given again, the last counts. yargs does so itself only where it drops all but the last word, too. */
function takeLast(args: Record<string, unknown>): void {
  for (const [name, value] of Object.entries(args)) {
    if (Array.isArray(value) && !WORDS.includes(name)) args[name] = value.at(-1);
  }
}
