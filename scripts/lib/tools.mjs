// Helpers of the scripts. Node built-ins only: these run in a fresh clone, before `npm ci`.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

/** An error that is reported without a stack: its message says what to do. */
export class UserError extends Error {}

/**
 * Runs a script's main function; errors end the process with code 1.
 * @param {() => void | Promise<void>} run
 */
export async function main(run) {
  try {
    await run();
  } catch (error) {
    const expected = error instanceof UserError || (error instanceof Error && error.name === 'JitFluxError');
    const stack = error instanceof Error ? error.stack : undefined;
    console.error(`\nerror: ${expected ? error.message : (stack ?? error)}`);
    process.exitCode = 1;
  }
}

/** @param {string} message */
export function log(message) {
  console.error(`[jit-flux] ${message}`);
}

/**
 * The environment for child tools. gyp and npm export make's flags and npm's settings, which would reach CMake, Ninja
 * and nested npm calls.
 */
export function cleanEnvironment() {
  return Object.fromEntries(
    Object.entries(process.env).filter(
      ([name]) => !/^(MAKE|MFLAGS|GNUMAKEFLAGS|npm_(config|package|lifecycle)_|PREBUILD_)/i.test(name),
    ),
  );
}

/**
 * Runs a command in the package directory with its output shown; throws a UserError if it fails.
 * @param {string} command
 * @param {readonly string[]} args
 * @param {{ name?: string, stdio?: import('node:child_process').StdioOptions, env?: NodeJS.ProcessEnv, allowFailure?: boolean }} [options]
 *   name: the command's name in the error
 */
export function run(command, args, options = {}) {
  const result = spawnSync(command, args, {
    cwd: ROOT,
    stdio: options.stdio ?? 'inherit',
    env: options.env ?? process.env,
  });
  if (hasCode(result.error, 'ENOENT')) throw new UserError(`${command} is not installed`);
  if (result.error) throw result.error;
  if (result.status !== 0 && !options.allowFailure) {
    const ended = result.signal ? `was ended by ${result.signal}` : `failed with exit code ${result.status}`;
    throw new UserError(`${options.name ?? [command, ...args].join(' ')} ${ended}`);
  }
  return result.status ?? 1;
}

/**
 * Output of a command, or undefined if it is missing or fails.
 * @param {string} command
 * @param {readonly string[]} args
 * @param {Pick<import('node:child_process').SpawnSyncOptions, 'cwd' | 'env'>} [options]
 * @returns {string | undefined}
 */
export function capture(command, args, options = {}) {
  const result = spawnSync(command, args, {
    cwd: ROOT,
    stdio: ['ignore', 'pipe', 'ignore'],
    maxBuffer: 1 << 28,
    ...options,
    encoding: 'utf8',
  });
  return result.status === 0 ? result.stdout : undefined;
}

/**
 * Whether this is an error of Node with the given code.
 * @param {unknown} error
 * @param {string} code
 */
export function hasCode(error, code) {
  return error instanceof Error && 'code' in error && error.code === code;
}

/**
 * Modification time in ms of a file, or of the newest file below a directory; `missing` if there is none.
 * @param {string} path
 */
export function newest(path, missing = 0) {
  if (!existsSync(path)) return missing;
  const info = statSync(path);
  if (!info.isDirectory()) return info.mtimeMs;
  let time = missing;
  for (const entry of readdirSync(path, { withFileTypes: true, recursive: true })) {
    if (entry.isFile()) time = Math.max(time, statSync(join(entry.parentPath, entry.name)).mtimeMs);
  }
  return time;
}

/**
 * The JavaScript entry of an installed development tool.
 * @param {string[]} parts
 */
export function toolPath(...parts) {
  const path = join(ROOT, 'node_modules', ...parts);
  if (!existsSync(path))
    throw new UserError(
      `${parts[0]} is not installed: run \`npm ci\` first (it is a development dependency)`,
    );
  return path;
}

/**
 * The value of `--name=value` or `--name value`, removed from `args`.
 * @template {string | undefined} [T=undefined]
 * @param {string[]} args
 * @param {string} name
 * @param {T} [fallback]
 * @returns {string | T}
 */
export function takeOption(args, name, fallback) {
  for (let i = 0; i < args.length; i++) {
    if (args[i] === `--${name}` && i + 1 < args.length) return args.splice(i, 2)[1];
    if (args[i].startsWith(`--${name}=`)) return args.splice(i, 1)[0].slice(name.length + 3);
  }
  return /** @type {T} */ (fallback);
}

/**
 * Whether `--name` was given; removed from `args`.
 * @param {string[]} args
 * @param {string} name
 */
export function takeFlag(args, name) {
  const index = args.indexOf(`--${name}`);
  if (index >= 0) args.splice(index, 1);
  return index >= 0;
}
