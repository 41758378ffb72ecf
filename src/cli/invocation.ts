/** One run of the command line: what it was told, where it writes, and how it says what went wrong. */
import { ERROR_CODES, JitFluxError, type JitFluxErrorCode, withoutControls } from '../errors.js';
import { setLogger } from '../logging.js';
import { type Command, type Context, EXIT, type Io, WARNING } from './command.js';
import { COMMANDS } from './commands.js';
import {
  commandName,
  COMMON_FLAGS,
  type Flag,
  flagsOf,
  flagWords,
  isTyped,
  positionalsOf,
  switchOf,
} from './flags.js';
import { toJson, wrapText } from './format.js';
import { errorInFlags, inFlags } from './say-flags.js';
import { readSettings, type Setting } from './settings.js';
import { type Style, styled } from './style.js';
import { meantBy, wordsOf } from './words.js';

/** A mistake in the command line itself, found by the parser. */
export class UsageError extends Error {}

/** Errors that are ours, not the user's or the machine's. */
const UNEXPECTED: readonly JitFluxErrorCode[] = [ERROR_CODES.NATIVE, ERROR_CODES.DISPOSED];
/** Of what the parser says: it quotes whole arguments, which may be of any length. */
const MOST_CHARACTERS = 400;
/** Begins an error. */
const NAME = 'jit-flux:';
/** Causes of an error that are shown: a chain may be a circle. */
const MOST_CAUSES = 8;

export class Invocation {
  readonly context: Context;
  /** Defaults that were set and not typed. */
  settings: ReadonlyMap<string, Setting> = new Map();
  readonly #argv: readonly string[];
  readonly #io: Io;
  readonly #command: Command | undefined;
  /** Of the command; none without one. */
  readonly #flags: ReadonlyMap<string, Flag>;
  #color: boolean | undefined;

  /** Parsing can fail, so the flags that decide how that is told are looked for first. */
  constructor(argv: readonly string[], io: Io, command: Command | undefined) {
    this.#argv = argv;
    this.#io = io;
    this.#command = command;
    this.#flags = command ? flagsOf(command) : new Map<string, Flag>();
    this.#color = switchOf(argv, { name: 'color', aliases: [] });
    const json = switchOf(argv, { name: 'json', aliases: [] }) ?? false;
    this.context = {
      ...io,
      json,
      verbose: false,
      set: new Set(),
      print: (line = '', bold) => {
        if (json) return;
        const text = wrapText(withoutControls(line), io.stdout.columns);
        io.stdout.write(`${this.#emphasise(text, bold, 'bold', io.stdout)}\n`);
      },
      printJson: (document) => void (json && io.stdout.write(`${toJson(document)}\n`)),
      note: (line) => {
        const isWarning = line.startsWith(WARNING);
        this.#say(isWarning ? inFlags(line, this.#flags) : line, isWarning ? WARNING : undefined, 'yellow');
      },
      detail: (line) => {
        if (!this.context.verbose) return;
        const text = wrapText(withoutControls(line), io.stderr.columns);
        io.stderr.write(`${this.#style('dim', text)}\n`);
      },
      dim: (text) => this.#style('dim', text),
    };
    this.#setVerbose(switchOf(argv, { name: 'verbose', aliases: [COMMON_FLAGS.verbose.alias] }) ?? false);
  }

  /**
   * Looks for defaults.
   * @throws what {@link readSettings} throws
   */
  async readSettings(command: Command): Promise<void> {
    const { env, signal } = this.#io;
    if (env === undefined) return;
    const settings = await readSettings(command, COMMANDS, { env, file: configFile(this.#argv), signal });
    for (const name of [...settings.keys()]) {
      if (isTyped(this.#argv, this.#flags.get(name)!)) settings.delete(name);
    }
    this.settings = settings;
    for (const name of settings.keys()) (this.context.set as Set<string>).add(name);
    const [color, verbose] = [settings.get('color')?.value, settings.get('verbose')?.value];
    if (typeof color === 'boolean') this.#color = color;
    if (typeof verbose === 'boolean') this.#setVerbose(verbose);
    for (const [name, { value, source }] of settings) {
      this.context.detail(`--${name} ${value} (${source})`);
    }
  }

  /** Tells the user what went wrong, and chooses the exit code. */
  report(error: unknown): number {
    const { context } = this;
    const interrupted = context.signal.aborted;
    const known = error instanceof JitFluxError ? error : undefined;
    const usage = error instanceof UsageError || (error instanceof Error && error.name === 'YError');
    const { message, flag } = known
      ? this.#explain(known)
      : { message: shortened(error instanceof Error ? error.message : String(error), usage) };
    const code = known?.code ?? (usage ? ERROR_CODES.INVALID_ARGUMENT : 'ERR_UNEXPECTED');
    const details = known?.details && { ...known.details, ...(flag !== undefined && { flag: `--${flag}` }) };
    context.printJson({ error: { code, message, ...(details && { details }) } });
    const isInterrupt = interrupted && (known?.code === ERROR_CODES.ABORTED || !known);
    if (!context.json) {
      if (isInterrupt) context.note('Interrupted');
      else {
        this.#say(`${NAME} ${message}${known ? ` [${code}]` : ''}`, NAME, 'red');
        if (usage) {
          const command = this.#command && commandName(this.#command);
          context.note(`See jit-flux ${command === undefined ? '' : `${command} `}--help`);
        }
      }
    }
    const isUnexpected = !usage && !known && !context.json && !isInterrupt;
    if ((context.verbose && !usage) || isUnexpected)
      for (const text of stacksOf(error)) this.#say(text, text);
    if (interrupted) return EXIT.interrupted;
    return usage || (known && !UNEXPECTED.includes(known.code)) ? EXIT.badInput : EXIT.failure;
  }

  /** Gives back what is not this run's. */
  end(): void {
    if (this.context.verbose) setLogger();
  }

  /** The message of an error in the words of the command line, with the word that was meant and where it was set. */
  #explain(error: JitFluxError): { message: string; flag?: string | undefined } {
    const command = this.#command;
    const { message, flag } = errorInFlags(error, this.#flags, command && positionalsOf(command));
    const { received, source = flag === undefined ? undefined : this.settings.get(flag)?.source } =
      error.details ?? {};
    const words = command && flag !== undefined ? wordsOf(commandName(command), this.#flags.get(flag)!) : [];
    const meant =
      typeof received === 'string' ? meantBy(received.replace(/^"|" \(string\)$/g, ''), words) : undefined;
    const from = typeof source === 'string' ? ` (from ${source})` : '';
    return { message: `${message}${from}${meant === undefined ? '' : `; did you mean ${meant}?`}`, flag };
  }

  #setVerbose(verbose: boolean): void {
    if (verbose === this.context.verbose) return;
    this.context.verbose = verbose;
    setLogger(
      verbose
        ? {
            level: 'debug',
            log: ({ level, source, message }) => this.context.detail(`[${source}] ${level}: ${message}`),
          }
        : {},
    );
  }

  #say(line: string, part?: string, style: Style = 'dim'): void {
    const { stderr } = this.#io;
    const whole = part === line;
    const text = whole ? withoutControls(line) : wrapText(withoutControls(line), stderr.columns);
    stderr.write(`${this.#emphasise(text, whole ? text : part, style, stderr)}\n`);
  }

  /** Of a part that is broken over lines nothing is emphasised. */
  #emphasise(text: string, part: string | undefined, style: Style, stream: object): string {
    const at = part === undefined ? -1 : text.indexOf(part);
    if (part === undefined || at < 0) return text;
    return text.slice(0, at) + styled(style, part, stream, this.#color) + text.slice(at + part.length);
  }

  #style(style: Style, text: string): string {
    return styled(style, text, this.#io.stderr, this.#color);
  }
}

/** What was typed for the file of settings; false: none. */
function configFile(argv: readonly string[]): string | false | undefined {
  let file: string | false | undefined;
  for (const [i, word] of flagWords(argv).entries()) {
    if (word === '--no-config') file = false;
    else if (word === '--config') file = argv[i + 1];
    else if (word.startsWith('--config=')) file = word.slice('--config='.length);
  }
  return file;
}

function shortened(said: string, isShortened: boolean): string {
  return isShortened && said.length > MOST_CHARACTERS ? `${said.slice(0, MOST_CHARACTERS)}...` : said;
}

/** Where an error comes from, and what caused it. */
function stacksOf(error: unknown): string[] {
  const stacks: string[] = [];
  for (let at = error; at instanceof Error && stacks.length < MOST_CAUSES; at = at.cause) {
    stacks.push(`${stacks.length > 0 ? 'caused by ' : ''}${at.stack ?? at.message}`);
  }
  return stacks;
}
