/** The lock among processes that are killed and stopped, in one PID namespace and in several, as containers have. */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { appendFileSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { describe, expect, it, onTestFinished } from 'vitest';

import { acquireLock } from '../../src/files/lock.js';

const PROGRAM = fileURLToPath(new URL('./programs/lock-user.mjs', import.meta.url));
const CLOCK = fileURLToPath(new URL('./programs/jumping-clock.mjs', import.meta.url));
const UNSHARE = ['--fork', '--kill-child', '--pid', '--mount-proc', '--uts'];
const canUnshare = spawnSync('unshare', [...UNSHARE, 'true']).status === 0;

/** Processes that contend for one lock, and the log of who held it when. */
function contest(command: readonly string[]) {
  const folder = mkdtempSync(join(tmpdir(), 'jit-flux-lock-'));
  const path = join(folder, 'a.lock');
  const log = join(folder, 'log');
  const running = new Map<string, ChildProcess>();
  onTestFinished(async () => {
    await Promise.all([...running.keys()].map(kill));
    rmSync(folder, { recursive: true, force: true });
  });
  let next = 0;
  const start = (): string => {
    const name = `p${next++}`;
    const args = [...command.slice(1), '--import', CLOCK, PROGRAM, path, log, name];
    running.set(name, spawn(command[0]!, args, { stdio: 'ignore' }));
    return name;
  };
  const kill = async (name: string): Promise<void> => {
    const child = running.get(name)!;
    running.delete(name);
    const ended = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    await ended;
    appendFileSync(log, `killed ${name}\n`);
  };
  const lines = (): string[] => readFileSync(log, 'utf8').split('\n').slice(0, -1);
  /** Waits for that many further entries. */
  const entries = async (count: number): Promise<void> => {
    const entered = () => lines().filter((line) => line.startsWith('enter')).length;
    for (const goal = entered() + count; entered() < goal;) await sleep(20);
  };
  appendFileSync(log, '');
  return { folder, path, start, kill, lines, entries, running };
}

/** Nobody enters while another one is inside. */
function expectNoOverlap(lines: readonly string[]): void {
  let inside: string | undefined;
  for (const line of lines) {
    const [what, name] = line.split(' ');
    if (what === 'enter') {
      expect(inside, `${name} entered`).toBeUndefined();
      inside = name;
    } else if (inside === name) inside = undefined;
  }
}

describe.each([
  ['one machine', true, [process.execPath]],
  ['several containers', canUnshare, ['unshare', ...UNSHARE, process.execPath]],
] as const)('a lock of %s', (_where, possible, command) => {
  const name = `is held by one process at a time while others are killed${possible ? '' : ' (skipped: no unshare here)'}`;
  it.skipIf(!possible)(
    name,
    async () => {
      const { folder, path, start, kill, lines, entries, running } = contest(command);
      for (let i = 0; i < 3; i++) start();
      for (let round = 0; round < 4; round++) {
        await entries(6);
        // The one inside, if possible: that is whom the others must outlive.
        const last = lines().at(-1)!.split(' ')[1]!;
        await kill(running.has(last) ? last : [...running.keys()][0]!);
        start();
      }
      await entries(6);
      await Promise.all([...running.keys()].map(kill));
      expectNoOverlap(lines());
      expect(lines().filter((line) => line.startsWith('lost'))).toEqual([]);
      const lock = await acquireLock(path, { staleAfter: 500, beat: 20, poll: 10 });
      await lock.release();
      expect(readdirSync(folder)).toEqual(['log']);
    },
    300_000,
  );
});

it.skipIf(!canUnshare)(
  'an owner that is stopped and taken for dead learns that it has lost the lock',
  async () => {
    const { path, start, lines, running } = contest(['unshare', ...UNSHARE, process.execPath]);
    // Seen from another PID namespace: here it would be asked for, and found alive.
    start();
    let inside: string | undefined;
    const [child] = [...running.values()];
    const group = (): number =>
      Number(spawnSync('pgrep', ['-P', String(child!.pid)], { encoding: 'utf8' }).stdout.trim());
    while (inside === undefined || !inside.startsWith('enter')) {
      await sleep(5);
      inside = lines().at(-1);
      if (inside?.startsWith('enter')) {
        process.kill(group(), 'SIGSTOP');
        await sleep(100);
        inside = lines().at(-1);
        if (!inside!.startsWith('enter')) process.kill(group(), 'SIGCONT'); // too late
      }
    }
    const lock = await acquireLock(path, { staleAfter: 1000, beat: 100, poll: 50 });
    const before = lines().length;
    process.kill(group(), 'SIGCONT');
    while (lines().length === before) await sleep(20);
    expect(lines()[before]).toMatch(/^lost/);
    await lock.assertHeld();
    await lock.release();
  },
  300_000,
);
