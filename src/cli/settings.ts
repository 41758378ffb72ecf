/**
 * Defaults of flags that their user has set, for the command line only: variables of the environment, then a file. What is typed
 * has precedence.
 */
import { join } from 'node:path';

import { ERROR_CODES, invalidArgument, JitFluxError } from '../errors.js';
import { readJsonFile, readJsonFileIfPresent } from '../files/json.js';
import { userConfigDirectory } from '../files/user-directories.js';
import type { Command } from './command.js';
import { commandName, COMMON_FLAGS, type Flag, flagsOf } from './flags.js';
import { nearest } from './suggest.js';

/** A value that was set, and where. */
export interface Setting {
  value: string | boolean | number;
  /** `JIT_FLUX_MODEL`, or `"model" in /home/me/.config/jit-flux/config.json`. */
  source: string;
}

/**
 * Commands that run a model or plan it: a variable and the file's top level are for all of them. The others write other things
 * under the same names, and take their own section of the file only.
 */
const OF_MODELS: readonly string[] = ['generate', 'compare', 'encode', 'plan'];
/** What the command line alone decides: the kind of output, the file itself, and which model's code is trusted. */
const TYPED_ONLY: readonly string[] = ['json', 'config', 'allow-torchscript-code'];
const EVERYWHERE: readonly string[] = Object.keys(COMMON_FLAGS).filter((name) => !TYPED_ONLY.includes(name));
/** Flags whose variables mean something else (docs/environment.md). */
const OTHER_VARIABLES: readonly string[] = ['variant', 'verbose'];
const FILE_VARIABLE = 'JIT_FLUX_CONFIG';

/** The variable of a flag: `JIT_FLUX_NUM_IMAGES` of `--num-images`. Undefined for a flag without one. */
export function variableOf(flag: string): string | undefined {
  if (TYPED_ONLY.includes(flag) || OTHER_VARIABLES.includes(flag)) return undefined;
  return `JIT_FLUX_${flag.toUpperCase().replaceAll('-', '_')}`;
}

/**
 * What has been set for a command.
 * @param o.file what was typed after `--config`; false: no file
 * @throws ERR_JITFLUX_INVALID_ARGUMENT naming file and key; ERR_JITFLUX_FILE_NOT_FOUND for a file that was named and is not there
 */
export async function readSettings(
  command: Command,
  commands: readonly Command[],
  o: { env: NodeJS.ProcessEnv; file: string | false | undefined; signal: AbortSignal },
): Promise<Map<string, Setting>> {
  if (o.file === '') throw invalidArgument('config', 'the path of a file', o.file);
  const flags = flagsOf(command);
  const settings =
    o.file === false ? new Map<string, Setting>() : await readFileSettings(command, commands, o);
  const isOfModels = OF_MODELS.includes(commandName(command));
  for (const flag of flags.values()) {
    const variable = variableOf(flag.name);
    const text = variable !== undefined && o.env[variable];
    if (variable === undefined || !text || !(isOfModels || EVERYWHERE.includes(flag.name))) continue;
    const value = flag.isBoolean ? (BOOLEANS.get(text.toLowerCase()) ?? text) : text;
    settings.set(flag.name, checked(flag, value, variable, '1, 0, true or false'));
  }
  return settings;
}

const BOOLEANS: ReadonlyMap<string, boolean> = new Map(
  Object.entries({ '1': true, true: true, '0': false, false: false }),
);

async function readFileSettings(
  command: Command,
  commands: readonly Command[],
  { env, file, signal }: { env: NodeJS.ProcessEnv; file: string | undefined | false; signal: AbortSignal },
): Promise<Map<string, Setting>> {
  const settings = new Map<string, Setting>();
  const named = file || env[FILE_VARIABLE];
  const directory = userConfigDirectory(env);
  const path = named || (directory && join(directory, 'jit-flux', 'config.json'));
  if (!path) return settings;
  const content = await (named ? readJsonFile : readJsonFileIfPresent)(path, { signal }).catch(
    (cause: unknown) => {
      // That of a model has the same reader.
      if (!(cause instanceof JitFluxError) || cause.code !== ERROR_CODES.INVALID_MODEL) throw cause;
      throw new JitFluxError(
        ERROR_CODES.INVALID_ARGUMENT,
        cause.message,
        { option: 'config', path },
        { cause },
      );
    },
  );
  if (content === undefined) return settings;

  const known = new Map(commands.map((one) => [commandName(one), flagsOf(one)]));
  const shared = new Map([...OF_MODELS.flatMap((name) => [...(known.get(name) ?? [])])]);
  const ours = known.get(commandName(command))!;
  const takes = (flags: ReadonlyMap<string, Flag>) =>
    [...flags.keys()].filter((name) => !TYPED_ONLY.includes(name));

  for (const [key, value] of entriesOf(content, path)) {
    const section = known.get(key);
    if (section === undefined) {
      const flag = shared.get(key);
      if (flag === undefined || TYPED_ONLY.includes(key)) {
        throw unknownKey(path, key, [...takes(shared), ...known.keys()]);
      }
      const setting = checked(flag, value, `"${key}" in ${path}`, 'true or false');
      const isForUs = EVERYWHERE.includes(key) || OF_MODELS.includes(commandName(command));
      // That of the section is nearer.
      if (isForUs && ours.has(key) && !settings.has(key)) settings.set(key, setting);
      continue;
    }
    for (const [inner, entry] of entriesOf(value, path, key)) {
      const flag = section.get(inner);
      if (flag === undefined || TYPED_ONLY.includes(inner)) {
        throw unknownKey(path, `${key}.${inner}`, takes(section));
      }
      const setting = checked(flag, entry, `"${key}.${inner}" in ${path}`, 'true or false');
      if (section === ours) settings.set(inner, setting);
    }
  }
  return settings;
}

function entriesOf(value: unknown, path: string, key?: string): [string, unknown][] {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return Object.entries(value);
  const what = key === undefined ? path : `"${key}" in ${path}`;
  throw new JitFluxError(ERROR_CODES.INVALID_ARGUMENT, `${what} is no object of flags and their values`, {
    option: 'config',
    path,
    ...(key !== undefined && { key }),
  });
}

function unknownKey(path: string, key: string, known: readonly string[]): JitFluxError {
  const name = key.split('.').at(-1)!;
  const meant = nearest(name, known);
  const why = TYPED_ONLY.includes(name)
    ? `--${name} is for the command line only`
    : meant === undefined
      ? 'keys are names of flags without dashes, or of commands'
      : `did you mean "${meant}"?`;
  return new JitFluxError(
    ERROR_CODES.INVALID_ARGUMENT,
    `${path}: unknown key "${key.slice(0, 100)}"; ${why}`,
    { option: 'config', path, key },
  );
}

/** Of the right type; the rest is checked as what is typed is. */
function checked({ name, isBoolean }: Flag, value: unknown, source: string, boolean: string): Setting {
  const fits = isBoolean
    ? typeof value === 'boolean'
    : typeof value === 'string' || typeof value === 'number';
  if (fits) return { value: value as Setting['value'], source };
  const error = invalidArgument(name, isBoolean ? boolean : 'a text or a number', value);
  throw new JitFluxError(error.code, error.message, { ...error.details, source });
}
