/** A model is described once and loaded once: how often one `generate` opens each of its files. */
import { execFile, spawnSync } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

import { afterAll, beforeAll, expect, it } from 'vitest';

import { writeTinySnapshot } from '../support/tiny-snapshot.js';

const CLI = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const hasStrace = spawnSync('strace', ['-o', '/dev/null', 'true']).status === 0;

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'jit-flux-opens-'));
});
afterAll(() => rm(root, { recursive: true, force: true }));

it.skipIf(!hasStrace)(
  hasStrace
    ? 'opens every weight file at most twice and every settings file once'
    : 'opens every file seldom (skipped: strace is not installed, or may not trace here)',
  async () => {
    const model = join(root, 'model');
    writeTinySnapshot(model);
    const log = join(root, 'strace.log');
    const generate = ['generate', 'a red circle', '--model', model, '--width', '128', '--height', '64'];
    await promisify(execFile)('strace', [
      ...['-f', '-s', '4096', '-e', 'trace=open,openat', '-o', log],
      ...[process.execPath, CLI, ...generate, '--seed', '1', '-o', join(root, 'picture.png')],
    ]);
    const opens = new Map<string, number>();
    for (const line of (await readFile(log, 'utf8')).split('\n')) {
      const path = /"([^"]+)".* = \d+$/.exec(line)?.[1];
      if (path?.startsWith(`${model}/`)) opens.set(path, (opens.get(path) ?? 0) + 1);
    }
    const shards = (await readdir(join(model, 'transformer'))).filter((name) =>
      name.endsWith('.safetensors'),
    );
    expect(shards.length).toBeGreaterThan(1);
    for (const shard of shards) expect(opens.get(join(model, 'transformer', shard)), shard).toBe(2);
    for (const [path, count] of opens) {
      const isWeights = /\.safetensors(\.index\.json)?$/.test(path);
      expect(count, path).toBeLessThanOrEqual(isWeights ? 2 : 1);
    }
  },
);
