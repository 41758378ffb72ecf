/** How much memory this process may still take. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';

import { invalidArgument } from '../errors.js';

/** Lowers what the memory check believes to be available: bytes, or a number with kB, MB, GB, KiB, MiB or GiB. */
export const MEMORY_LIMIT_VARIABLE = 'JIT_FLUX_MEMORY_LIMIT';

export interface AvailableMemory {
  bytes: number;
  /** What sets the limit: the machine, the control group (container), or the environment variable. */
  limitedBy: 'machine' | 'cgroup' | 'JIT_FLUX_MEMORY_LIMIT';
}

/** Reads a text file; undefined if there is none. */
export type ReadText = (path: string) => Promise<string | undefined>;

const readSystemFile: ReadText = (path) => readFile(path, 'utf8').catch(() => undefined);

/**
 * The smallest of MemAvailable (/proc/meminfo), what is left of the control group's limit, and
 * `JIT_FLUX_MEMORY_LIMIT`. Undefined where none of them is known.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT for a malformed `JIT_FLUX_MEMORY_LIMIT`
 */
export async function availableMemory(
  o: { env?: NodeJS.ProcessEnv; read?: ReadText } = {},
): Promise<AvailableMemory | undefined> {
  const { env = process.env, read = readSystemFile } = o;
  const found: AvailableMemory[] = [];
  const machine = memAvailable((await read('/proc/meminfo')) ?? '');
  if (machine !== undefined) found.push({ bytes: machine, limitedBy: 'machine' });
  const group = await cgroupAvailable(read);
  if (group !== undefined) found.push({ bytes: group, limitedBy: 'cgroup' });
  const limit = env[MEMORY_LIMIT_VARIABLE];
  if (limit !== undefined && limit !== '') {
    found.push({ bytes: parseBytes(limit), limitedBy: MEMORY_LIMIT_VARIABLE });
  }
  return found.sort((a, b) => a.bytes - b.bytes)[0];
}

/** MemAvailable of /proc/meminfo, in bytes. */
export function memAvailable(meminfo: string): number | undefined {
  const kilobytes = /^MemAvailable:\s+(\d+) kB$/m.exec(meminfo)?.[1];
  return kilobytes === undefined ? undefined : Number(kilobytes) * 1024;
}

/** `8GB`, `7.5 GiB`, `500000000`. */
export function parseBytes(text: string): number {
  const match = /^\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*$/i.exec(text);
  const [, number, prefix = '', binary] = match ?? [];
  if (number === undefined || (prefix === '' && binary)) {
    throw invalidArgument(MEMORY_LIMIT_VARIABLE, 'bytes, or a number with kB, MB, GB or GiB', text);
  }
  const power = ['', 'k', 'm', 'g', 't'].indexOf(prefix.toLowerCase());
  return Math.floor(Number(number) * (binary ? 1024 : 1000) ** power);
}

/** What is left below the tightest limit of the process's control group and its parents. */
async function cgroupAvailable(read: ReadText): Promise<number | undefined> {
  const membership = (await read('/proc/self/cgroup')) ?? '';
  const unified = /^0::(\/.*)$/m.exec(membership)?.[1];
  const memory = /^\d+:(?:[^:]*,)?memory(?:,[^:]*)?:(\/.*)$/m.exec(membership)?.[1];
  const left: number[] = [];
  for (const [root, path, files] of [
    ['/sys/fs/cgroup', unified, ['memory.max', 'memory.current', 'inactive_file']],
    [
      '/sys/fs/cgroup/memory',
      memory,
      ['memory.limit_in_bytes', 'memory.usage_in_bytes', 'total_inactive_file'],
    ],
  ] as const) {
    if (path === undefined) continue;
    // Inside of a container the path may be the host's; the container's own group then lies at the root.
    for (const directory of [...parents(path), ''].map((part) => join(root, part))) {
      const limit = Number((await read(join(directory, files[0])))?.trim() || NaN);
      // The oldest interface writes "no limit" as a huge number.
      if (!Number.isFinite(limit) || limit > 2 ** 60) continue;
      const usage = Number((await read(join(directory, files[1])))?.trim() || 0);
      const stat = (await read(join(directory, 'memory.stat'))) ?? '';
      // Cached file pages are given back when memory is needed.
      const cached = Number(new RegExp(`^${files[2]} (\\d+)$`, 'm').exec(stat)?.[1] ?? 0);
      left.push(Math.max(0, limit - Math.max(0, usage - cached)));
    }
  }
  return left.length === 0 ? undefined : Math.min(...left);
}

/** `/a/b`, `/a`. */
function parents(path: string): string[] {
  const parts = path.split('/').filter((part) => part !== '' && part !== '..');
  return parts.map((_, i) => `/${parts.slice(0, parts.length - i).join('/')}`);
}
