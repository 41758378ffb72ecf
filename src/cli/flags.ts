/** The flags that commands have, seen from outside: by names, aliases and choices. */
import yargs from 'yargs';

import type { Command } from './command.js';

/** Flags of every command. */
export const COMMON_FLAGS = {
  json: { type: 'boolean', default: false, describe: 'print one JSON document on stdout' },
  verbose: {
    alias: 'v',
    type: 'boolean',
    default: false,
    describe: 'say on stderr what is decided and inferred, how long it takes, and the causes of an error',
  },
  color: {
    type: 'boolean',
    describe: 'colours (--no-color: none; default: on a terminal, unless NO_COLOR is set)',
  },
  config: {
    type: 'string',
    requiresArg: true,
    describe: 'file with defaults of flags (default: ~/.config/jit-flux/config.json; --no-config: none)',
  },
} as const;

/** Letters of flags. One means the same in every command that has it, and what it means in sd-cli, where that has it. */
export const LETTERS = {
  prompt: 'p',
  model: 'm',
  out: 'o',
  seed: 's',
  width: 'W',
  height: 'H',
  threads: 't',
  'num-images': 'n',
  quiet: 'q',
} as const;

/** One flag of a command. */
export interface Flag {
  /** Without the dashes. */
  name: string;
  /** Its letter, if it has one. */
  aliases: readonly string[];
  isBoolean: boolean;
  /** All values that it takes, if it takes no others. */
  choices: readonly string[] | undefined;
}

/** What yargs knows of options; its types leave that out. */
interface ParserOptions {
  key: Record<string, boolean>;
  alias: Record<string, string[]>;
  boolean: string[];
  choices: Record<string, string[]>;
}

/** Its name, as it is typed. */
export function commandName({ command }: Command): string {
  return command.split(' ')[0]!;
}

/** Names of what a command takes without dashes: `input` and `output` of `convert`. */
export function positionalsOf({ command }: Command): string[] {
  return [...command.matchAll(/[<[]([\w-]+)/g)].map(([, name]) => name!);
}

/** All flags of a command by name, with those that every command has. */
export function flagsOf(command: Command): Map<string, Flag> {
  const { key, alias, boolean, choices } = (
    command.builder(yargs().options(COMMON_FLAGS)) as unknown as { getOptions(): ParserOptions }
  ).getOptions();
  const aliases = new Set(Object.values(alias).flat());
  const others = new Set([...positionalsOf(command), 'help', 'version']);
  return new Map(
    Object.keys(key)
      .filter((name) => !aliases.has(name) && !others.has(name))
      .map((name) => [
        name,
        {
          name,
          aliases: alias[name] ?? [],
          isBoolean: boolean.includes(name),
          choices: choices[name],
        },
      ]),
  );
}

/** The words in front of `--`. */
export function flagWords(argv: readonly string[]): readonly string[] {
  const end = argv.indexOf('--');
  return end < 0 ? argv : argv.slice(0, end);
}

/** Letters of flags without a value, which may be joined: `-qv`. */
const JOINED = /^-[a-zA-Z]+$/;

/** Whether a flag was typed in any of its forms: `--width 64`, `--width=64`, `--no-json`, `-W64`, `-qv`. */
export function isTyped(argv: readonly string[], { name, aliases }: Pick<Flag, 'name' | 'aliases'>): boolean {
  const isForm = (word: string) =>
    word === `--${name}` ||
    word === `--no-${name}` ||
    word.startsWith(`--${name}=`) ||
    aliases.some((letter) => word.startsWith(`-${letter}`) || (JOINED.test(word) && word.includes(letter)));
  return flagWords(argv).some(isForm);
}

/** A flag without a value, before the parser has seen the words: what fails while parsing is told by it, too. */
export function switchOf(argv: readonly string[], flag: Pick<Flag, 'name' | 'aliases'>): boolean | undefined {
  let said: boolean | undefined;
  for (const word of flagWords(argv)) {
    if (isTyped([word], flag)) said = !(word === `--no-${flag.name}` || word.endsWith('=false'));
  }
  return said;
}
