// What the tests of the installed package are made of: steps with an outcome, projects, commands.
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { ROOT, UserError, cleanEnvironment } from './tools.mjs';

/** Thrown by a step that cannot be done on this machine; the message says why. */
export class Skip extends Error {}

const started = performance.now();
/** @type {{ name: string, outcome: string, seconds: number }[]} */
const results = [];

/**
 * Runs a part. A failure ends the whole test: later parts build on earlier ones.
 * @param {string} name
 * @param {() => void | Promise<void>} action
 */
export async function step(name, action) {
  console.log(`\n${name}`);
  const begin = performance.now();
  const done = (/** @type {string} */ outcome) =>
    results.push({ name, outcome, seconds: (performance.now() - begin) / 1000 });
  try {
    await action();
    done('ok');
  } catch (error) {
    if (!(error instanceof Skip)) {
      throw new UserError(`${name}: ${error instanceof Error ? error.stack : error}`);
    }
    say(`skipped: ${error.message}`);
    done('skipped');
  }
}

/** @param {string} text */
export function say(text) {
  console.log(`  ${text}`);
}

/**
 * @param {string} command
 * @param {readonly string[]} args
 * @param {{ cwd?: string, env: NodeJS.ProcessEnv }} o
 */
export function start(command, args, { cwd = ROOT, env }) {
  const result = spawnSync(command, args, { cwd, env, encoding: 'utf8', maxBuffer: 1 << 26 });
  if (result.error) throw result.error;
  return result;
}

/**
 * Output of a command that must succeed.
 * @param {string} command
 * @param {readonly string[]} args
 * @param {{ cwd?: string, env: NodeJS.ProcessEnv, show?: RegExp }} o show: the lines of its output to repeat
 */
export function check(command, args, o) {
  const { status, signal, stdout, stderr } = start(command, args, o);
  if (status !== 0)
    throw new Error(
      `${[command, ...args].join(' ')} ended with ${status ?? signal}\n${`${stdout}\n${stderr}`.slice(0, 4000)}`,
    );
  if (o.show) for (const line of `${stdout}${stderr}`.split('\n')) if (o.show.test(line)) say(line);
  return stdout;
}

/**
 * @param {unknown} actual
 * @param {unknown} expected
 */
export function equal(actual, expected) {
  if (!isDeepStrictEqual(actual, expected))
    throw new Error(`Expected ${JSON.stringify(expected)} but received ${JSON.stringify(actual)}`);
}

/**
 * Works in an empty folder, which goes afterwards.
 * @param {string} name
 * @param {boolean} keep leaves it, and says where
 * @param {(scratch: string) => Promise<void>} work
 */
export async function inScratch(name, keep, work) {
  const scratch = realpathSync(mkdtempSync(join(tmpdir(), `jit-flux-${name}-`)));
  try {
    await work(scratch);
  } finally {
    if (keep) console.log(`\nkept: ${scratch}`);
    else {
      // Parts of it may have been made read-only.
      spawnSync('chmod', ['-R', 'u+w', scratch]);
      rmSync(scratch, { recursive: true, force: true });
    }
  }
}

/** @param {string} directory */
export function newProject(directory) {
  mkdirSync(directory, { recursive: true });
  writeFileSync(
    join(directory, 'package.json'),
    '{ "name": "consumer", "version": "1.0.0", "private": true }\n',
  );
}

/** @param {string} name */
function isOwnSetting(name) {
  return /^(JIT_FLUX_|LIBTORCH$|XDG_|LD_LIBRARY_PATH$|NODE_OPTIONS$|NODE_PATH$)/.test(name);
}

/** @param {string} text */
export function lastLine(text) {
  return (
    text
      .trim()
      .split('\n')
      .findLast((line) => /error/i.test(line)) ?? text.trim()
  );
}

/** Prints what became of every step. */
export function report() {
  console.log('\nresult');
  for (const { name, outcome, seconds } of results)
    console.log(`  ${outcome.padEnd(7)} ${seconds.toFixed(1).padStart(6)} s  ${name}`);
  console.log(`  in ${((performance.now() - started) / 1000).toFixed(0)} s`);
}

/**
 * The environment of a user of this machine, without what is set for this package. The settings of npm (registry, proxies)
 * hold, also where HOME is another one.
 * @returns {NodeJS.ProcessEnv}
 */
export function userEnvironment() {
  return {
    ...Object.fromEntries(Object.entries(cleanEnvironment()).filter(([name]) => !isOwnSetting(name))),
    npm_config_userconfig: join(homedir(), '.npmrc'),
    npm_config_cache: process.env.npm_config_cache ?? join(homedir(), '.npm'),
  };
}
