// What a result must say about where it was measured.
import { execFileSync, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { availableParallelism, cpus, release, totalmem } from 'node:os';
import { cpuClassOf } from './cpu-class.mjs';
import { ROOT } from './paths.mjs';

const FLAGS = /^(avx2|fma|avx512f|avx512_bf16|avx512_vnni|avx_vnni|amx_bf16|amx_int8|amx_tile)$/;

/** Asks the engine in a process of its own: one that cannot be loaded is a fact about the machine as well. */
const ENGINE = "import { engineInfo } from 'jit-flux'; console.log(JSON.stringify(engineInfo()));";

/**
 * @param {{ threads: number, mode: import('./models.mjs').Mode }} o
 */
export function describeMachine({ threads, mode }) {
  const cpuinfo = readFileSync('/proc/cpuinfo', 'utf8');
  /** @type {(name: string) => string | undefined} */
  const field = (name) => new RegExp(`^${name}\\s*:\\s*(.*)$`, 'm').exec(cpuinfo)?.[1];
  /** @type {(...args: string[]) => string | undefined} */
  const git = (...args) => {
    const { status, stdout } = spawnSync('git', args, { cwd: ROOT, encoding: 'utf8' });
    return status === 0 ? stdout.trim() : undefined;
  };
  const flags = [...new Set(field('flags')?.split(' '))].filter((flag) => FLAGS.test(flag));
  return {
    date: new Date().toISOString(),
    commit: git('rev-parse', '--short=10', 'HEAD') ?? 'unknown',
    // Untracked files do not count: they are results and caches.
    modified: Boolean(git('status', '--porcelain', '--untracked-files=no')),
    mode,
    cpu: cpus()[0]?.model ?? field('model name') ?? 'unknown',
    cpuFamily: `${field('cpu family')}/${field('model')}/${field('stepping')}`,
    flags,
    cpuClass: cpuClassOf(flags),
    cores: availableParallelism(),
    memoryGiB: Number((totalmem() / 2 ** 30).toFixed(1)),
    kernel: release(),
    node: process.versions.node,
    engine: describeEngine(),
    threads,
  };
}

/** @returns {{ version: string, libtorch: string, isa: string, cpuCapability: string } | { error: string }} */
function describeEngine() {
  try {
    const args = ['--input-type=module', '--eval', ENGINE];
    const text = execFileSync(process.execPath, args, { cwd: ROOT, encoding: 'utf8', stdio: 'pipe' });
    const { version, libtorch, isa, cpuCapability } = JSON.parse(text);
    return { version, libtorch, isa, cpuCapability };
  } catch (error) {
    const { stderr, message } = /** @type {Error & { stderr?: string }} */ (error);
    return { error: /^\w*Error[^\n]*/m.exec(stderr ?? '')?.[0] ?? message };
  }
}
