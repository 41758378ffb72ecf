/** What every command is made of. */
import type { Argv } from 'yargs';

/** Where a command writes, and what stops it. */
export interface Io {
  /** Results. With `--json` exactly one JSON document. */
  stdout: { write(text: string): unknown; columns?: number };
  /** Progress, warnings and errors. */
  stderr: NodeJS.WritableStream & { isTTY?: boolean };
  /** Prompts for `-`. Absent: there are none. */
  stdin?: AsyncIterable<string | Uint8Array>;
  /** Aborted by SIGINT. */
  signal: AbortSignal;
}

/** What a command gets besides its arguments. */
export interface Context extends Io {
  json: boolean;
  /** Writes a line of the result. Nothing with `--json`. */
  print: (line?: string) => void;
  /** Writes the JSON document. Nothing without `--json`. */
  printJson: (document: unknown) => void;
  /** Writes a line that is not part of the result to stderr. */
  note: (line: string) => void;
}

export const EXIT = { ok: 0, failure: 1, badInput: 2, interrupted: 130 } as const;

/** A command of the CLI. Its module must not import native code, or anything large, at the top. */
export interface Command {
  /** yargs syntax: `generate <prompt>`. */
  command: string;
  describe: string;
  builder: (yargs: Argv) => Argv;
  /** @returns the exit code, if it is not 0 */
  run: (args: never, context: Context) => Promise<number | void>;
}

/** Ties the types of a command's options to its implementation. */
export function defineCommand<Args>(definition: {
  command: string;
  describe: string;
  builder: (yargs: Argv) => Argv<Args>;
  run: (args: Args, context: Context) => Promise<number | void>;
}): Command {
  return definition;
}
