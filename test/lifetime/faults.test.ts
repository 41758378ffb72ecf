/**
 * `setup` and `convert` that are killed or fail at a system call: whatever the call, nothing half-done is taken for whole,
 * the next run succeeds, and nothing is left over. strace does it to a process of its own; JIT_FLUX_TEST_FAULTS says how
 * many calls are tried of each walk (default 6).
 */
import { spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it, onTestFinished } from 'vitest';

import { ERROR_CODES } from '../../src/errors.js';
import { findLibTorch } from '../../src/libtorch/libtorch.js';
import { LIBRARY_NAMES, makeManifest, makeZip, writeFile } from '../support/fake-libtorch.js';
import { fixturePath } from '../support/safetensors.js';
import { writeTinySnapshot } from '../support/tiny-snapshot.js';

const POINTS = Number(process.env.JIT_FLUX_TEST_FAULTS ?? 6);
/** Those that the main thread makes too, which opens modules and writes results, are left out: it would be hit first. */
const CHANGES = 'mkdir,rename,unlink,rmdir,pwrite64,ftruncate,fallocate,fsync,fdatasync,flock,statfs';
const program = (name: string) => fileURLToPath(new URL(`./programs/${name}.mjs`, import.meta.url));
/** File operations on one thread: strace counts the calls of each. */
const ENV = { ...process.env, UV_THREADPOOL_SIZE: '1' };
const canTrace = spawnSync('strace', ['-f', '-o', '/dev/null', 'true']).status === 0;
const canMount = spawnSync('unshare', ['--mount', 'mount', '-t', 'tmpfs', 'x', '/mnt']).status === 0;
const traced = canTrace ? '' : ' (skipped: no strace here)';

interface Outcome {
  signal: NodeJS.Signals | null;
  result?: unknown;
  error?: { name: string; code: string; message: string };
}

/** A command whose last line of output is that of report.mjs. */
function run(command: readonly string[]): Outcome {
  const { stdout, stderr, signal, status } = spawnSync(command[0]!, command.slice(1), {
    encoding: 'utf8',
    env: ENV,
    timeout: 120_000,
    killSignal: 'SIGABRT',
  });
  const last = stdout.trim().split('\n').at(-1)!;
  // strace ends as its program does.
  if (signal === 'SIGKILL' || status === 137) return { signal: 'SIGKILL' };
  expect(signal, stderr).toBeNull();
  expect(last, stderr).not.toBe('');
  return { signal, ...(JSON.parse(last) as Omit<Outcome, 'signal'>) };
}

/** Every failure is typed. */
function expectKnown({ error, signal }: Outcome): void {
  if (error === undefined) return;
  expect(signal).toBeNull();
  expect(error.name, error.message).toBe('JitFluxError');
  expect(Object.values(ERROR_CODES), error.message).toContain(error.code);
}

function temporary(): string {
  const folder = mkdtempSync(join(tmpdir(), 'jit-flux-faults-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** The `count`-th call of that name in its thread, as strace counts them. */
interface Call {
  call: string;
  count: number;
}

/** Calls of a program that concern the folder, in their order: some of them, the first and the last included. */
function callsOn(folder: string, command: readonly string[], calls: string): Call[] {
  const log = join(temporary(), 'log');
  const args = ['-f', '-y', '-qq', '-o', log, '-e', `trace=${calls}`, ...command];
  const { status, stderr } = spawnSync('strace', args, { env: ENV, encoding: 'utf8' });
  expect(status, stderr).toBe(0);
  const counts = new Map<string, number>();
  const found = new Map<string, Call>();
  for (const line of readFileSync(log, 'utf8').split('\n')) {
    const [, thread, call] = /^(\d+) +(\w+)\(/.exec(line) ?? [];
    if (thread === undefined || call === undefined) continue;
    const count = (counts.get(thread + call) ?? 0) + 1;
    counts.set(thread + call, count);
    if (line.includes(folder)) found.set(`${call} ${count}`, { call, count });
  }
  const all = [...found.values()];
  expect(all.length).toBeGreaterThan(0);
  if (all.length <= POINTS) return all;
  return Array.from({ length: POINTS }, (_, i) => all[Math.round((i * (all.length - 1)) / (POINTS - 1))]!);
}

/** A command that has a fault at some calls. */
function injected(calls: string, fault: string, command: readonly string[]): string[] {
  const filter = ['-e', `trace=${calls}`, '-e', `inject=${calls}:${fault}`];
  // Signals are not injected in the fast mode.
  const mode = fault.startsWith('signal') ? [] : ['--seccomp-bpf'];
  return ['strace', '-f', ...mode, '-qq', '-o', '/dev/null', ...filter, ...command];
}

const CONTENT = Buffer.alloc(3 << 20, 7);
const wheel = makeZip([
  ...LIBRARY_NAMES.map((name) => ({ name: `torch/lib/${name}`, data: `library ${name}` })),
  { name: 'torch/lib/large.bin', data: CONTENT, deflate: false },
  { name: 'torch/version.py', data: `__version__ = '2.13.0'\n` },
]);
const manifest = makeManifest(wheel);

/** A cache, and the command that fills it: through `downloads`, so that all phases are there. */
function setupPlace(root = temporary(), force = false) {
  const cacheDir = join(root, 'cache');
  writeFile(join(root, 'mirror/torch-2.13.0.whl'), wheel);
  const options = {
    cacheDir,
    manifest,
    force,
    env: { JIT_FLUX_LIBTORCH_MIRROR: join(root, 'mirror') },
    lockTimes: { beat: 50, poll: 20 },
  };
  const file = writeFile(join(root, 'options.json'), JSON.stringify(options));
  const command = [process.execPath, program('setup-once'), file];
  /** The LibTorch of the cache, which is whole if it is there at all. */
  const findWhole = () => {
    let found;
    try {
      found = findLibTorch({ cacheDir, manifest, python: false, env: { HOME: root } });
    } catch {
      return false;
    }
    for (const name of LIBRARY_NAMES)
      expect(readFileSync(join(found.path, 'lib', name), 'utf8')).toBe(`library ${name}`);
    expect(readFileSync(join(found.path, 'lib/large.bin')).equals(CONTENT)).toBe(true);
    return true;
  };
  const expectRecovery = () => {
    expect(run(command)).toMatchObject({ result: { version: '2.13.0' } });
    expect(findWhole()).toBe(true);
    expect(readdirSync(join(cacheDir, 'libtorch'))).toEqual(['2.13.0-cpu']);
    expect(readdirSync(join(cacheDir, 'downloads'))).toEqual([]);
  };
  return { root, cacheDir, command, findWhole, expectRecovery };
}

describe('setup', () => {
  it.skipIf(!canTrace)(`killed at a call${traced}`, { timeout: 600_000 }, () => {
    const first = setupPlace();
    const points = callsOn(first.cacheDir, first.command, CHANGES);
    const place = setupPlace();
    let kills = 0;
    for (const point of points) {
      if (run(injected(point.call, `signal=SIGKILL:when=${point.count}`, place.command)).signal === 'SIGKILL')
        kills++;
      place.findWhole();
      // Not only one kill is recovered from: what two have left as well.
      run(injected(point.call, `signal=SIGKILL:when=${point.count}`, place.command));
      place.expectRecovery();
      rmSync(place.cacheDir, { recursive: true });
    }
    expect(kills).toBeGreaterThan(points.length / 2);
  });

  it.skipIf(!canTrace)(`killed while it replaces${traced}`, { timeout: 600_000 }, () => {
    const place = setupPlace();
    run(place.command);
    const again = setupPlace(place.root, true);
    for (const point of callsOn(place.cacheDir, again.command, 'rename')) {
      run(injected(point.call, `signal=SIGKILL:when=${point.count}`, again.command));
      again.findWhole();
      again.expectRecovery();
    }
  });

  it.skipIf(!canTrace).each(['ENOSPC', 'EIO', 'EACCES'])(
    `fails at a call with %s${traced}`,
    { timeout: 600_000 },
    (errno) => {
      // write is not among them: Node's own pipes and events use it.
      const calls = 'mkdir,rename,pwrite64,ftruncate,fsync';
      const place = setupPlace();
      const points = callsOn(place.cacheDir, place.command, calls);
      rmSync(place.cacheDir, { recursive: true });
      for (const point of points) {
        const outcome = run(injected(point.call, `error=${errno}:when=${point.count}`, place.command));
        expectKnown(outcome);
        if (place.findWhole()) expect(outcome.result).toBeDefined();
        place.expectRecovery();
        rmSync(place.cacheDir, { recursive: true });
      }
    },
  );

  it.skipIf(!canTrace)(`goes on after EINTR${traced}`, { timeout: 600_000 }, () => {
    const place = setupPlace();
    const calls = 'openat,pwrite64,ftruncate,fsync';
    expect(run(injected(calls, 'error=EINTR:when=3+3', place.command)).error).toBeUndefined();
    place.expectRecovery();
  });

  it('goes by no clock', { timeout: 120_000 }, () => {
    const place = setupPlace();
    const command = [process.execPath, '--import', program('jumping-clock'), ...place.command.slice(1)];
    expect(run(command).error).toBeUndefined();
    place.expectRecovery();
  });

  it.skipIf(!canMount)(
    `on a full, a small and a read-only disk${canMount ? '' : ' (skipped: no mount here)'}`,
    { timeout: 600_000 },
    () => {
      const { root, command } = setupPlace();
      mkdirSync(join(root, 'cache'));
      const quoted = command.map((part) => `'${part}'`).join(' ');
      // The archive has 3.1 MB, and as much must be unpacked, which the manifest does not say.
      for (const kilobytes of [4, 64, 2048, 3500, 4096, 5000, 6000]) {
        const script = `
          mount -t tmpfs -o mode=755,size=${kilobytes}k x '${root}/cache' || exit 9
          ${quoted}
          find '${root}/cache' -name 'torch-*.part' -o -path '*/libtorch/*' | wc -l
          mount -o remount,size=100m '${root}/cache'
          ${quoted}
          find '${root}/cache/libtorch' '${root}/cache/downloads' -mindepth 1 -maxdepth 1 | wc -l`;
        const { stdout, stderr } = spawnSync('unshare', ['--mount', 'sh', '-c', script], {
          encoding: 'utf8',
          env: ENV,
        });
        const [failed, , done, left] = stdout.trim().split('\n');
        const outcome = JSON.parse(failed!) as Outcome;
        expectKnown({ ...outcome, signal: null });
        expect(outcome.error?.code, `${kilobytes} kB: ${failed}`).toBe('ERR_JITFLUX_SETUP_FAILED');
        expect(outcome.error?.message).toMatch(/make room/i);
        expect(done, stderr).toMatch(/"result"/);
        expect(left?.trim()).toBe('1');
      }
      const script = `mount -t tmpfs -o mode=755,ro x '${root}/cache' && ${quoted}`;
      const { stdout } = spawnSync('unshare', ['--mount', 'sh', '-c', script], {
        encoding: 'utf8',
        env: ENV,
      });
      const { error } = JSON.parse(stdout) as Outcome;
      expect(error?.code).toBe('ERR_JITFLUX_SETUP_FAILED');
      expect(error?.message).toMatch(/read-only: mount it for writing, or name another place/);
    },
  );
});

describe('convert', () => {
  function place(input: string, output: string) {
    const root = temporary();
    const path = join(root, output);
    const command = [process.execPath, program('convert-once'), input, path];
    const contents = (): Map<string, Buffer> =>
      new Map(
        !existsSync(path)
          ? []
          : output.includes('.')
            ? [['', readFileSync(path)]]
            : readdirSync(path, { recursive: true, withFileTypes: true })
                .filter((entry) => entry.isFile())
                .map((entry) => join(entry.parentPath, entry.name))
                .map((file) => [file.slice(path.length), readFileSync(file)]),
      );
    return { root, path, command, contents };
  }

  const isOutput = (name: string) => !/\.partial|\.tmp$|\.jit-flux-convert\.json/.test(name);

  it.skipIf(!canTrace)(`killed at a call${traced}`, { timeout: 600_000 }, () => {
    const whole = place(fixturePath('flux/flux-mini.safetensors'), 'model.pt');
    const points = callsOn(whole.root, whole.command, CHANGES);
    const expected = whole.contents();
    const { root, command, contents } = place(fixturePath('flux/flux-mini.safetensors'), 'model.pt');
    for (const point of points) {
      run(injected(point.call, `signal=SIGKILL:when=${point.count}`, command));
      for (const [name, bytes] of contents()) expect(bytes.equals(expected.get(name)!)).toBe(true);
      expect(run(command).error).toBeUndefined();
      expect(contents().get('')?.equals(expected.get('')!)).toBe(true);
      expect(readdirSync(root)).toEqual(['model.pt']);
      rmSync(join(root, 'model.pt'));
    }
  });

  it.skipIf(!canTrace)(`a snapshot, killed at a call${traced}`, { timeout: 600_000 }, () => {
    const snapshot = temporary();
    writeTinySnapshot(snapshot);
    const whole = place(snapshot, 'converted');
    const points = callsOn(whole.root, whole.command, 'rename,unlink,mkdir');
    const expected = whole.contents();
    const { command, contents, path } = place(snapshot, 'converted');
    for (const point of points) {
      run(injected(point.call, `signal=SIGKILL:when=${point.count}`, command));
      for (const [name, bytes] of contents())
        if (isOutput(name)) expect(bytes.equals(expected.get(name)!), name).toBe(true);
      expect(run(command).error).toBeUndefined();
      expect([...contents().keys()].sort()).toEqual([...expected.keys()].sort());
      for (const [name, bytes] of contents()) expect(bytes.equals(expected.get(name)!), name).toBe(true);
      rmSync(path, { recursive: true });
    }
  });

  it.skipIf(!canTrace).each(['ENOSPC', 'EIO', 'EDQUOT'])(
    `fails at a call with %s${traced}`,
    { timeout: 600_000 },
    (errno) => {
      const calls = 'pwrite64,fallocate,fsync,fdatasync,rename';
      const { root, command } = place(fixturePath('flux/flux-mini.safetensors'), 'model.pt');
      const points = callsOn(root, command, calls);
      for (const point of points) {
        writeFileSync(join(root, 'model.pt'), 'old content');
        const outcome = run(injected(point.call, `error=${errno}:when=${point.count}`, command));
        expectKnown(outcome);
        if (outcome.error) {
          expect(outcome.error.code).toBe('ERR_JITFLUX_WRITE_FAILED');
          expect(readFileSync(join(root, 'model.pt'), 'utf8')).toBe('old content');
        }
        expect(readdirSync(root)).toEqual(['model.pt']);
      }
    },
  );

  it.skipIf(!canTrace)(`goes on after EINTR${traced}`, { timeout: 600_000 }, () => {
    const { root, command } = place(fixturePath('flux/flux-mini.safetensors'), 'model.pt');
    const calls = 'pwrite64,fallocate,fsync,fdatasync,ftruncate';
    expect(run(injected(calls, 'error=EINTR:when=1+2', command)).error).toBeUndefined();
    expect(readdirSync(root)).toEqual(['model.pt']);
  });
});

describe('LibTorch', () => {
  it.skipIf(!canTrace)(
    `that disappears between its check and its loading${traced}`,
    { timeout: 600_000 },
    () => {
      const libraries = findLibTorch().libraries;
      for (const library of libraries) {
        const command = ['-P', library, process.execPath, program('load-native')];
        const outcome = run(injected('openat', 'error=ENOENT', command));
        expectKnown(outcome);
        expect(outcome.error?.code).toBe('ERR_JITFLUX_NATIVE_LOAD');
        expect(outcome.error?.message).toContain(library);
      }
    },
  );
});
