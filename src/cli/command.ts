/** What every command is made of. */
import type { Argv } from 'yargs';

/** Where a command writes, and what stops it. */
export interface Io {
  /** Results. With `--json` exactly one JSON document. */
  stdout: { write(text: string | Uint8Array): unknown; columns?: number; isTTY?: boolean };
  /** Progress, warnings and errors. */
  stderr: NodeJS.WritableStream & {
    isTTY?: boolean;
    columns?: number;
    rows?: number;
    getColorDepth?: () => number;
  };
  /** Prompts for `-`. Absent: there are none. */
  stdin?: AsyncIterable<string | Uint8Array>;
  /** Aborted by SIGINT. */
  signal: AbortSignal;
  /** Where defaults of flags may be set. Absent: nowhere, and no file is looked for. */
  env?: NodeJS.ProcessEnv;
}

/** What a command gets besides its arguments. */
export interface Context extends Io {
  json: boolean;
  /** Whether everything is to be said. */
  verbose: boolean;
  /** Flags that were not typed but set, in the environment or a file. */
  set: ReadonlySet<string>;
  /** Writes a line of the result. Nothing with `--json`. @param bold the part of it that matters most */
  print: (line?: string, bold?: string) => void;
  /** Writes the JSON document. Nothing without `--json`. */
  printJson: (document: unknown) => void;
  /** Writes a line that is not part of the result to stderr. One that begins with {@link WARNING} is one. */
  note: (line: string) => void;
  /** {@link note} with `--verbose`; nothing without. */
  detail: (line: string) => void;
  /** A text for stderr that is there by the way. */
  dim: (text: string) => string;
}

/** Begins lines about what may not be as it was meant. */
export const WARNING = 'Warning:';

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
