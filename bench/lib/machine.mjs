// What a result must say about where it was measured.
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { availableParallelism, cpus, release, totalmem } from 'node:os';
import { ROOT } from './paths.mjs';

const FLAGS = /^(avx2|fma|avx512f|avx512_bf16|avx512_vnni|avx_vnni|amx_bf16|amx_int8|amx_tile)$/;

/**
 * @param {{ threads: number, quick: boolean }} o
 * @returns {Promise<Record<string, unknown>>}
 */
export async function describeMachine({ threads, quick }) {
  const { engineInfo } = await import('jit-flux');
  const { version, libtorch, isa, cpuCapability } = engineInfo();
  const cpuinfo = readFileSync('/proc/cpuinfo', 'utf8');
  const field = (name) => new RegExp(`^${name}\\s*:\\s*(.*)$`, 'm').exec(cpuinfo)?.[1];
  const git = (...args) => {
    const { status, stdout } = spawnSync('git', args, { cwd: ROOT, encoding: 'utf8' });
    return status === 0 ? stdout.trim() : undefined;
  };
  return {
    date: new Date().toISOString(),
    commit: git('rev-parse', '--short=10', 'HEAD') ?? 'unknown',
    // Untracked files do not count: they are results and caches.
    modified: Boolean(git('status', '--porcelain', '--untracked-files=no')),
    mode: quick ? 'quick' : 'full',
    cpu: cpus()[0]?.model ?? field('model name'),
    cpuFamily: `${field('cpu family')}/${field('model')}/${field('stepping')}`,
    flags: [...new Set(field('flags')?.split(' '))].filter((flag) => FLAGS.test(flag)),
    cores: availableParallelism(),
    memoryGiB: Number((totalmem() / 2 ** 30).toFixed(1)),
    kernel: release(),
    node: process.versions.node,
    jitFlux: version,
    libtorch,
    isa,
    cpuCapability,
    threads,
  };
}
