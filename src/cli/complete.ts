/** What a shell completes a command line with. The shells' scripts are those of yargs (`jit-flux completion`), and so is the protocol. */
import type { Command } from './command.js';
import { commandName, type Flag, flagsOf, positionalsOf } from './flags.js';
import { wordsOf } from './words.js';

/** With which the shell's script asks. The words that are typed follow, the program's name first. */
export const COMPLETION_REQUEST = '--get-yargs-completions';
/** What nothing completes. */
const PROMPT = 'prompt';
const OF_PROGRAM = ['--help', '--version'];

/**
 * Completions of the last word; none leaves it to the shell, which completes file names. Not by the parser, which would take
 * half a command line for a wrong one.
 * @param words as they are typed, with the name of the program in front
 */
export function completionsOf(words: readonly string[], commands: readonly Command[]): string[] {
  const [, name, ...rest] = words;
  const command = commands.find((one) => commandName(one) === name);
  if (command === undefined || rest.length === 0) {
    const current = words.at(-1) ?? '';
    const known = current.startsWith('-') ? OF_PROGRAM : [...commands.map(commandName), 'completion'];
    return words.length > 2 ? [] : known.filter((word) => word.startsWith(current));
  }
  const [before, current] = [rest.at(-2), rest.at(-1)!];
  const flags = [...flagsOf(command).values()];
  const isWritten = (flag: Flag, word: string | undefined) =>
    word === `--${flag.name}` || flag.aliases.some((letter) => word === `-${letter}`);
  const asking = flags.find((flag) => !flag.isBoolean && isWritten(flag, before));
  if (asking) return wordsOf(name!, asking).filter((word) => word.startsWith(current));
  const takesFiles = positionalsOf(command).some((positional) => positional !== PROMPT);
  if (takesFiles && !current.startsWith('-')) return [];
  return flags
    .filter((flag) => !rest.slice(0, -1).some((word) => isWritten(flag, word)))
    .flatMap(({ name, isBoolean }) => [`--${name}`, ...(isBoolean ? [`--no-${name}`] : [])])
    .concat('--help')
    .filter((word) => word.startsWith(current));
}
