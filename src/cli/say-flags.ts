/** Messages of the library in the words of the command line: flags where it names options. */
import type { JitFluxError } from '../errors.js';
import type { Flag } from './flags.js';

/** Flags that are not called as the option is: `stageRatios` is `--stage-ratios`, and these are not so. */
const FLAG_OF: ReadonlyMap<string, string> = new Map(
  Object.entries({
    maxSequenceLength: 'text-tokens',
    textTokens: 'text-tokens',
    images: 'num-images',
    initialAnchors: 'anchors',
    keepTextEncoders: 'release-encoders',
    weightStreaming: 'stream-weights',
    textEncoderDevice: 'encoders-on-cpu',
    decoderDevice: 'encoders-on-cpu',
    allowTorchScriptCode: 'allow-torchscript-code',
  }),
);
/** Messages about the command line itself, which name keys of a file as they are. */
const OURS: readonly string[] = ['config'];
/** Options that say the contrary of their flags. */
const CONTRARY: readonly string[] = ['keepTextEncoders'];
/** Options that have fields, which their flags take in one text. */
const FIELDS = /^(microFlow|schedule)\..*/;
/** Functions, and what to do instead on the command line. */
const COMMAND_OF: ReadonlyMap<string, string> = new Map([['encodePrompt', '`jit-flux encode`']]);

/** The flags of a command by name. */
type Flags = ReadonlyMap<string, Flag>;

/** The name of the flag that sets an option of the library; undefined if the command has none. */
export function flagOf(option: string, flags: Flags): string | undefined {
  const whole = option.replace(FIELDS, '$1');
  const kebab = whole.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
  const name = FLAG_OF.get(whole) ?? kebab;
  return flags.has(name) ? name : undefined;
}

/**
 * An option in a sentence, with what it is set to: `memoryCheck: false`, `dtype 'bfloat16'`, `"numImages"`, `stageRatios`. Not
 * within a path.
 */
const OPTION = /(?<![\w./-])("?)([a-z]\w*(?:\.\w+)?)\1(?:(?:: | )(true|false|'[\w:-]+'))?(?![\w/-])/g;
/** Advice that no flag follows. */
const WITHOUT_FLAG = /(?<=\bTry .*)\b[a-z]+[A-Z]\w*: (?:true|false); /g;

/**
 * A sentence of the library with flags in place of options.
 * @param o.quoted whether plain words in quotes are options: not where prompts may be quoted
 */
export function inFlags(sentence: string, flags: Flags, o: { quoted: boolean } = { quoted: false }): string {
  const said = sentence.replace(OPTION, (match, quote: string, option: string, value: string | undefined) => {
    const command = COMMAND_OF.get(option);
    if (command !== undefined) return command;
    const name = flagOf(option, flags);
    // A plain word is one of the language, unless it is marked.
    const isOption = /[A-Z]/.test(option) || value !== undefined || (quote !== '' && o.quoted);
    if (name === undefined || !isOption) return match;
    if (!flags.get(name)!.isBoolean) return value ? `--${name} ${value.replaceAll("'", '')}` : `--${name}`;
    const isOff = CONTRARY.includes(option) ? value === 'true' : value === 'false';
    return isOff ? `--no-${name}` : `--${name}`;
  });
  return said.replace(WITHOUT_FLAG, '');
}

/** Of a value in a message. Everything that is typed is text. */
const TYPE = / \((?:string|number|boolean|bigint|array)\)(?=; known|$)/;

/** What the command line says of an error. */
export interface SaidError {
  message: string;
  /** Name of the flag that is at fault, if one is. */
  flag: string | undefined;
}

/**
 * The message of an error in flags. What was typed is left as it is.
 * @param positionals names of the command's words without dashes
 */
export function errorInFlags(
  error: JitFluxError,
  flags: Flags,
  positionals: readonly string[] = [],
): SaidError {
  const { option, expected } = error.details ?? {};
  if (typeof option !== 'string') return { message: inFlags(error.message, flags), flag: undefined };
  if (OURS.includes(option)) return { message: error.message, flag: undefined };
  const flag = flagOf(option, flags);
  const beginning = `Expected ${String(expected)} for "${option}" but received `;
  if (!error.message.startsWith(beginning)) {
    return { message: inFlags(error.message, flags).replace(TYPE, ''), flag };
  }
  const name =
    flag === undefined ? (positionals.includes(option) ? `<${option}>` : `"${option}"`) : `--${flag}`;
  const received = error.message.slice(beginning.length).replace(TYPE, '');
  const but = received === 'undefined' ? '' : ` but received ${received}`;
  const wanted = inFlags(String(expected), flags, { quoted: true });
  // Of more than one sentence the last is told from the flag.
  const comma = /[:;] /.test(wanted.replace(/\([^)]*\)/g, '')) ? ',' : '';
  return { message: `Expected ${wanted}${comma} for ${name}${but}`, flag };
}
