// The executable that measures parts of the engine without JavaScript (bench/native).
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT } from './paths.mjs';

const EXECUTABLE = join(ROOT, 'build', 'Release', 'jit_flux_bench');

/**
 * Runs one of its sections; builds it first if it is missing.
 * @param {'ceilings' | 'kernels' | 'attention' | 'jit-operators'} section
 * @param {{ quick: boolean, threads: number, log: (text: string) => void }} context
 * @returns {Promise<Record<string, any>>} its JSON document
 */
export async function runNative(section, { quick, threads, log }) {
  if (!existsSync(EXECUTABLE)) {
    log('building jit_flux_bench');
    await output(process.execPath, [join(ROOT, 'scripts', 'build-native.mjs'), '--bench']);
    if (!existsSync(EXECUTABLE)) throw new Error(`The build did not produce ${EXECUTABLE}`);
  }
  log(section);
  const text = await output(EXECUTABLE, [
    section,
    ...(quick ? ['--quick'] : []),
    '--threads',
    String(threads),
  ]);
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new Error(`jit_flux_bench ${section} printed no JSON document: ${text.slice(0, 200)}`, { cause });
  }
}

/** Standard output of a command; its progress goes to our standard error. */
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
 * @param {Record<string, any> | undefined} ceilings
 * @returns {Record<string, number>}
 */
export function gemmCeilings(ceilings) {
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
