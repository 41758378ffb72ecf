import { spawn } from 'node:child_process';
import { mkdirSync, readFileSync, readdirSync, renameSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';

import { acquireLock, type LockHolder, type LockOptions } from '../../../src/files/lock.js';
import { livenessOf, ownIdentity, type ProcessIdentity } from '../../../src/files/process-identity.js';
import { expectError } from '../../support/errors.js';
import { temporaryDirectory, writeFile } from '../../support/fake-libtorch.js';

const TIMES = { staleAfter: 400, beat: 20, poll: 10 } satisfies LockOptions;
/** In a container on another machine. */
const ELSEWHERE: ProcessIdentity = {
  pid: process.pid,
  host: 'builder-7',
  boot: '00000000-0000-4000-8000-000000000000',
  namespace: 'pid:[4026532000]',
  started: '4711',
};

function fresh() {
  const folder = temporaryDirectory();
  return { folder, path: join(folder, 'a.lock') };
}

/** The lock of another process, with a heartbeat as long as `beat` is called. */
function foreignLock(path: string, owner: object = ELSEWHERE) {
  let count = 0;
  const file = join(path, 'owner-0123456789abcdef');
  const beat = () => writeFileSync(file, `${JSON.stringify(owner)}\n${String(count++).padStart(16, '0')}\n`);
  mkdirSync(path);
  beat();
  return { beat, file };
}

describe('acquireLock', () => {
  it('leaves nothing behind, and says who holds it', async () => {
    const { folder, path } = fresh();
    const first = await acquireLock(path, TIMES);
    expect(readdirSync(folder)).toEqual(['a.lock']);
    const holders: (LockHolder | undefined)[] = [];
    const onWait = (holder: LockHolder | undefined) => {
      holders.push(holder);
      void first.release();
    };
    const second = await acquireLock(path, { ...TIMES, onWait });
    expect(holders[0]).toMatchObject({ pid: process.pid, host: ownIdentity().host });
    await second.release();
    expect(readdirSync(folder)).toEqual([]);
  });

  it('lets one of many at a time through', async () => {
    const { path, folder } = fresh();
    let inside = 0;
    const enter = async () => {
      const lock = await acquireLock(path, TIMES);
      expect(++inside).toBe(1);
      await lock.assertHeld();
      inside--;
      await lock.release();
    };
    await Promise.all(Array.from({ length: 12 }, enter));
    expect(readdirSync(folder)).toEqual([]);
  });

  it('takes over from a machine that is gone, after a bounded time', async () => {
    const { path } = fresh();
    foreignLock(path);
    const holders: (LockHolder | undefined)[] = [];
    const lock = await acquireLock(path, { ...TIMES, onWait: (holder) => holders.push(holder) });
    expect(holders.length).toBeGreaterThan(TIMES.staleAfter / (2 * TIMES.poll) - 2);
    expect(holders[0]).toMatchObject({ pid: process.pid, host: 'builder-7' });
    await lock.release();
  });

  it('waits for a living machine, however long, and takes over once its heart stops', async () => {
    const { path } = fresh();
    const { beat } = foreignLock(path);
    let waits = 0;
    const alive = 4 * (TIMES.staleAfter / TIMES.poll);
    const lock = await acquireLock(path, {
      ...TIMES,
      onWait: () => void (++waits < alive && waits % 5 === 0 && beat()),
    });
    expect(waits).toBeGreaterThan(alive);
    await lock.release();
  });

  it('does not take a pause of its own for the death of the owner', async () => {
    const { path } = fresh();
    foreignLock(path);
    let waits = 0;
    const onWait = () => {
      if (++waits !== 3) return;
      // As after SIGSTOP and SIGCONT, or a suspended laptop: nothing was watched meanwhile.
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 3 * TIMES.staleAfter);
    };
    const lock = await acquireLock(path, { ...TIMES, onWait });
    expect(waits).toBeGreaterThan(TIMES.staleAfter / (2 * TIMES.poll) - 4);
    await lock.release();
  });

  it('asks for a process of this machine, whose heart may stand still', async () => {
    const { path } = fresh();
    foreignLock(path, ownIdentity());
    let waits = 0;
    const { signal, abort } = controller();
    const onWait = () => void (++waits === 4 * (TIMES.staleAfter / TIMES.poll) && abort());
    await expectError(() => acquireLock(path, { ...TIMES, signal, onWait }), 'ERR_JITFLUX_ABORTED');
  });

  it('takes over from a dead process of this machine soon, but not while its heart beats', async () => {
    const { path } = fresh();
    // Clones of a running machine have the same boot and process ids: the owner may live in the other one.
    const { beat } = foreignLock(path, { ...ownIdentity(), pid: 2 ** 22 + 1 });
    let waits = 0;
    const lock = await acquireLock(path, {
      ...TIMES,
      staleAfter: Infinity,
      onWait: () => void (++waits < 50 && beat()),
    });
    expect(waits).toBeGreaterThanOrEqual(50);
    await lock.release();
  });

  it('tells an owner that lost the lock', async () => {
    const { path } = fresh();
    const first = await acquireLock(path, TIMES);
    // What a watcher sees of an owner that was stopped.
    const [name] = readdirSync(path);
    renameSync(join(path, name!), join(path, '..', 'taken'));
    await expect(first.assertHeld()).rejects.toThrow(`the lock ${path} was taken over`);
    expect(first.lost.aborted).toBe(true);
    const second = await acquireLock(path, TIMES);
    await first.release();
    await second.assertHeld();
    await second.release();
  });

  it('notices the loss by itself', async () => {
    const { path } = fresh();
    const lock = await acquireLock(path, TIMES);
    renameSync(path, `${path}.away`);
    await new Promise((resolve) => lock.lost.addEventListener('abort', resolve));
    await lock.release();
  });

  it('compares no clocks', async () => {
    const { path } = fresh();
    const now = Date.now;
    onTestFinished(() => void (Date.now = now));
    let jumps = 0;
    Date.now = () => now() + (jumps++ % 2 ? 1 : -1) * 86_400_000;
    const { beat } = foreignLock(path);
    let waits = 0;
    const lock = await acquireLock(path, { ...TIMES, onWait: () => void (++waits < 100 && beat()) });
    expect(waits).toBeGreaterThan(100);
    await lock.release();
    expect(readFileSync('src/files/lock.ts', 'utf8')).not.toMatch(/\bDate\b|mtime/);
  });

  it('sweeps away what killed processes had prepared', async () => {
    const { folder, path } = fresh();
    writeFile(`${path}.owner-00112233/owner-00112233`, '');
    const lock = await acquireLock(path, TIMES);
    expect(readdirSync(folder)).toEqual(['a.lock']);
    await lock.release();
  });

  it.each(['empty directory', 'damaged owner', 'empty owner', 'file of an older version'])(
    'copes with an %s',
    async (kind) => {
      const { path } = fresh();
      if (kind === 'empty directory') mkdirSync(path);
      if (kind === 'damaged owner') writeFile(join(path, 'owner-1'), '{"pid":');
      if (kind === 'empty owner') writeFile(join(path, 'owner-1'), '');
      if (kind === 'file of an older version') writeFile(path, JSON.stringify({ pid: 1, host: 'gone' }));
      const lock = await acquireLock(path, TIMES);
      await lock.assertHeld();
      await lock.release();
    },
  );

  it('deletes nothing that is no lock', async () => {
    const { folder, path } = fresh();
    writeFile(join(folder, 'precious/file'), 'x');
    symlinkSync('precious', path);
    await expect(acquireLock(path, TIMES)).rejects.toThrow('it is a symbolic link; remove it');
    const other = join(folder, 'b.lock');
    writeFile(join(other, 'file'), 'x');
    await expect(acquireLock(other, TIMES)).rejects.toThrow('it holds file; remove it');
    expect(readFileSync(join(folder, 'precious/file'), 'utf8')).toBe('x');
    expect(readFileSync(join(other, 'file'), 'utf8')).toBe('x');
  });

  it('fails where nothing can be written', async () => {
    const { folder } = fresh();
    await expect(acquireLock(join(folder, 'missing/a.lock'), TIMES)).rejects.toMatchObject({
      code: 'ENOENT',
    });
    writeFile(join(folder, 'file'), '');
    await expect(acquireLock(join(folder, 'file/a.lock'), TIMES)).rejects.toMatchObject({ code: 'ENOTDIR' });
  });

  it('does not take a signal that has fired', async () => {
    const { folder, path } = fresh();
    await expectError(
      () => acquireLock(path, { ...TIMES, signal: AbortSignal.abort() }),
      'ERR_JITFLUX_ABORTED',
    );
    expect(readdirSync(folder)).toEqual([]);
  });
});

describe('livenessOf', () => {
  it('knows this process, a reused id, and what it cannot ask', () => {
    const own = ownIdentity();
    expect(livenessOf(own)).toBe('alive');
    expect(livenessOf({ ...own, started: '1' })).toBe('dead');
    expect(livenessOf({ ...own, pid: 2 ** 22 + 1 })).toBe('dead');
    expect(livenessOf({ ...own, boot: 'another' })).toBe('unknown');
    expect(livenessOf({ ...own, namespace: 'pid:[1]' })).toBe('unknown');
    expect(livenessOf({ pid: own.pid, host: 'another' })).toBe('unknown');
    // Zero and negative ids would ask for groups of processes.
    for (const pid of [0, -1, 1.5, NaN]) expect(livenessOf({ ...own, pid })).toBe('unknown');
  });

  it('takes a zombie for dead', async () => {
    // The shell becomes a program that does not wait for its child.
    const parent = spawn('sh', ['-c', 'sleep 0.1 & echo $!; exec sleep 60']);
    onTestFinished(() => void parent.kill('SIGKILL'));
    const pid = await new Promise<number>((resolve) =>
      parent.stdout.once('data', (text: Buffer) => resolve(Number(text.toString()))),
    );
    const { boot, namespace, host } = ownIdentity();
    const zombie = { pid, host, ...(boot && { boot }), ...(namespace && { namespace }) };
    while (livenessOf(zombie) !== 'dead') await new Promise((resolve) => setTimeout(resolve, 20));
    process.kill(pid, 0); // it is still there
  });
});

function controller() {
  const it = new AbortController();
  return { signal: it.signal, abort: () => it.abort() };
}
