// The executable of bench/native: it measures parts of the engine without JavaScript, and is eager ATen's process.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT } from './paths.mjs';

const EXECUTABLE = join(ROOT, 'build', 'Release', 'jit_flux_bench');

/** @typedef {'ceilings' | 'kernels' | 'attention' | 'jit-operators'} NativeSection */

/**
 * Its path; builds it first if it is missing.
 * @param {(text: string) => void} log
 */
export async function benchExecutable(log) {
  if (!existsSync(EXECUTABLE)) {
    log('building jit_flux_bench');
    await output(process.execPath, [join(ROOT, 'scripts', 'build-native.mjs'), '--bench']);
    if (!existsSync(EXECUTABLE)) throw new Error(`The build did not produce ${EXECUTABLE}`);
  }
  return EXECUTABLE;
}

/**
 * Runs one of its sections.
 * @param {NativeSection} section
 * @param {{ mode: import('./models.mjs').Mode, threads: number, log: (text: string) => void }} context
 * @returns {Promise<any>} its JSON document
 */
export async function runNative(section, { mode, threads, log }) {
  const executable = await benchExecutable(log);
  const text = await output(executable, [
    section,
    ...(mode === 'full' ? [] : [`--${mode}`]),
    '--threads',
    String(threads),
  ]);
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new Error(`jit_flux_bench ${section} printed no JSON document: ${text.slice(0, 200)}`, { cause });
  }
}

/**
 * Standard output of a command; its progress goes to our standard error.
 * @param {string} command
 * @param {string[]} args
 * @returns {Promise<string>}
 */
function output(command, args) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd: ROOT, stdio: ['ignore', 'pipe', 'inherit'] });
    let text = '';
    child.stdout.setEncoding('utf8').on('data', (part) => (text += part));
    child.on('error', reject);
    child.on('close', (code, signal) => {
      if (code === 0) resolve(text);
      else reject(new Error(`${command} ${args.join(' ')} ended with ${signal ?? `code ${code}`}`));
    });
  });
}

/**
 * GFLOP/s of the fastest matrix product per type, from the ceilings' document.
 * @param {any} ceilings
 * @returns {Record<string, number>}
 */
export function gemmCeilings(ceilings) {
  /** @type {Record<string, number>} */
  const best = {};
  for (const { name, params, ours } of ceilings?.rows ?? []) {
    const { dtype } = params ?? {};
    if (/gemm/i.test(name) && dtype && ours?.gflops > (best[dtype] ?? 0)) best[dtype] = ours.gflops;
  }
  for (const [key, value] of Object.entries(ceilings?.ceilings ?? {})) {
    const dtype = /^gemm_(\w+)_gflops$/.exec(key)?.[1];
    if (dtype) best[dtype] = value;
  }
  return best;
}
