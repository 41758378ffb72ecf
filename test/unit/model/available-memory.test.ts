import { describe, expect, it } from 'vitest';

import { availableMemory, memAvailable, parseBytes } from '../../../src/model/available-memory.js';

const GIB = 1024 ** 3;
const MEMINFO = 'MemTotal:       24684092 kB\nMemFree:        21461220 kB\nMemAvailable:   16777216 kB\n';

/** A machine whose only files are these. */
function machine(files: Record<string, string>, env: NodeJS.ProcessEnv = {}) {
  return availableMemory({ env, read: (path) => Promise.resolve(files[path]) });
}

describe('availableMemory', () => {
  it('is what the machine has', async () => {
    expect(memAvailable(MEMINFO)).toBe(16 * GIB);
    expect(await machine({ '/proc/meminfo': MEMINFO })).toEqual({ bytes: 16 * GIB, limitedBy: 'machine' });
  });

  it('is what the control group leaves, its file cache not counted', async () => {
    const files = {
      '/proc/meminfo': MEMINFO,
      '/proc/self/cgroup': '0::/pod/container\n',
      '/sys/fs/cgroup/pod/container/memory.max': 'max\n',
      '/sys/fs/cgroup/pod/memory.max': `${8 * GIB}\n`,
      '/sys/fs/cgroup/pod/memory.current': `${5 * GIB}\n`,
      '/sys/fs/cgroup/pod/memory.stat': `anon 1\ninactive_file ${2 * GIB}\n`,
    };
    expect(await machine(files)).toEqual({ bytes: 5 * GIB, limitedBy: 'cgroup' });
  });

  it('finds a container whose group lies at the root, of either version', async () => {
    const unified = {
      '/proc/meminfo': MEMINFO,
      '/proc/self/cgroup': '0::/\n',
      '/sys/fs/cgroup/memory.max': String(3 * GIB),
      '/sys/fs/cgroup/memory.current': String(GIB),
    };
    expect(await machine(unified)).toEqual({ bytes: 2 * GIB, limitedBy: 'cgroup' });
    const old = {
      '/proc/meminfo': MEMINFO,
      '/proc/self/cgroup': '5:cpu,memory:/docker/abc\n',
      '/sys/fs/cgroup/memory/memory.limit_in_bytes': String(4 * GIB),
      '/sys/fs/cgroup/memory/memory.usage_in_bytes': String(3 * GIB),
      '/sys/fs/cgroup/memory/memory.stat': `total_inactive_file ${GIB}\n`,
    };
    expect(await machine(old)).toEqual({ bytes: 2 * GIB, limitedBy: 'cgroup' });
  });

  it('ignores limits that are none', async () => {
    const files = {
      '/proc/meminfo': MEMINFO,
      '/proc/self/cgroup': '5:memory:/\n0::/\n',
      '/sys/fs/cgroup/memory.max': 'max',
      '/sys/fs/cgroup/memory/memory.limit_in_bytes': '9223372036854771712',
    };
    expect((await machine(files))?.limitedBy).toBe('machine');
    expect(await machine({})).toBeUndefined();
  });

  it('can be lowered, not raised, by the environment', async () => {
    const files = { '/proc/meminfo': MEMINFO };
    expect(await machine(files, { JIT_FLUX_MEMORY_LIMIT: '2GB' })).toEqual({
      bytes: 2e9,
      limitedBy: 'JIT_FLUX_MEMORY_LIMIT',
    });
    expect((await machine(files, { JIT_FLUX_MEMORY_LIMIT: '1TB' }))?.limitedBy).toBe('machine');
    expect((await machine(files, { JIT_FLUX_MEMORY_LIMIT: '' }))?.limitedBy).toBe('machine');
  });

  it('reads this machine', async () => {
    expect((await availableMemory({ env: {} }))?.bytes).toBeGreaterThan(1e8);
  });
});

describe('parseBytes', () => {
  it.each([
    ['500000000', 5e8],
    ['8GB', 8e9],
    ['8 gb', 8e9],
    ['8G', 8e9],
    ['7.5 GiB', 7.5 * GIB],
    ['512MiB', 512 * 1024 ** 2],
    ['100 kB', 1e5],
    ['10b', 10],
  ])('reads %s', (text, bytes) => expect(parseBytes(text)).toBe(bytes));

  it.each(['', 'much', '-1', '8XB', '8 GB RAM', '1e9', '7ib'])('refuses %j', (text) => {
    expect(() => parseBytes(text)).toThrow(
      expect.objectContaining({
        code: 'ERR_JITFLUX_INVALID_ARGUMENT',
        message: expect.stringContaining('JIT_FLUX_MEMORY_LIMIT') as string,
      }),
    );
  });
});
