/** examples/server.mjs, as its clients see it. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { afterEach, expect, it } from 'vitest';

import type { PipelineStats } from '../../src/index.js';

const program = fileURLToPath(new URL('../../examples/server.mjs', import.meta.url));
const SMALL = { prompt: 'a red circle over the sea', preset: 'jit-7x', seed: 7, width: 64, height: 64 };
/** Long enough to meet others in the queue: some seconds. */
const LONG = { prompt: 'a blue square', preset: 'dense', width: 512, height: 512 };

/** Of a busy machine. */
const SOON = { timeout: 30_000, interval: 20 };

let server: ChildProcess | undefined;
afterEach(() => server?.kill('SIGKILL'));

async function start(variables: Record<string, string> = {}) {
  const child = spawn(process.execPath, [program], {
    env: { ...process.env, PORT: '0', ...variables },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  server = child;
  let errors = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => (errors += text));
  const [line] = (await once(child.stdout.setEncoding('utf8'), 'data')) as [string];
  const address = /^listening on (http:\/\/\S+)/.exec(line)?.[1] as string;
  return {
    post: (body: unknown, signal?: AbortSignal) =>
      fetch(`${address}/images`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(body),
        ...(signal && { signal }),
      }),
    health: async () => (await (await fetch(`${address}/health`)).json()) as PipelineStats,
    /** Sends SIGTERM and waits for the end. */
    stop: async () => {
      const ended = once(child, 'exit');
      child.kill('SIGTERM');
      const [code, signal] = (await ended) as [number | null, NodeJS.Signals | null];
      return { code, signal, errors };
    },
  };
}

it('answers with pictures, refuses bad requests, and finishes what it has begun before it stops', async () => {
  const { post, health, stop } = await start();
  const [one, again] = [await post(SMALL), await post(SMALL)];
  expect([one.status, one.headers.get('content-type'), one.headers.get('x-seed')]).toEqual([
    200,
    'image/png',
    '7',
  ]);
  const png = Buffer.from(await one.arrayBuffer());
  expect(png.subarray(1, 4).toString()).toBe('PNG');
  expect([png.readUInt32BE(16), png.readUInt32BE(20)]).toEqual([64, 64]);
  expect(Buffer.from(await again.arrayBuffer())).toEqual(png);

  const refused: [object, string][] = [
    [{}, 'FST_ERR_VALIDATION'],
    [{ ...SMALL, prompt: 3 }, 'FST_ERR_VALIDATION'],
    [{ ...SMALL, preset: 'jit-9x' }, 'FST_ERR_VALIDATION'],
    [{ ...SMALL, seed: -1 }, 'FST_ERR_VALIDATION'],
    [{ ...SMALL, signal: {} }, 'FST_ERR_VALIDATION'],
    // Not a multiple of the model's pixels per token: only the pipeline knows.
    [{ ...SMALL, width: 65 }, 'ERR_JITFLUX_INVALID_ARGUMENT'],
  ];
  for (const [body, code] of refused) {
    const response = await post(body);
    expect([response.status, ((await response.json()) as { code: string }).code]).toEqual([400, code]);
  }
  expect(await health()).toMatchObject({ status: 'ok', requests: { completed: 2, running: 0 }, images: 2 });

  const last = post({ ...SMALL, preset: 'dense', width: 256, height: 256 });
  await expect.poll(async () => (await health()).requests.running, SOON).toBe(1);
  const ended = stop();
  expect((await last).status).toBe(200);
  expect(await ended).toEqual({ code: 0, signal: null, errors: '' });
});

it('answers 503 when its queue is full, and drops requests whose client has gone', async () => {
  const { post, health, stop } = await start({ MAX_QUEUE: '1' });
  const client = new AbortController();
  const leaving = [post(LONG, client.signal), post(LONG, client.signal)].map((one) =>
    one.catch((error: Error) => error.name),
  );
  await expect.poll(async () => (await health()).requests, SOON).toMatchObject({ running: 1, waiting: 1 });
  const full = await post(SMALL);
  expect([full.status, ((await full.json()) as { code: string }).code]).toEqual([
    503,
    'ERR_JITFLUX_QUEUE_FULL',
  ]);
  expect(Number(full.headers.get('retry-after'))).toBeGreaterThanOrEqual(1);

  client.abort();
  expect(await Promise.all(leaving)).toEqual(['AbortError', 'AbortError']);
  await expect
    .poll(async () => (await health()).requests, SOON)
    .toMatchObject({ running: 0, waiting: 0, aborted: 2, rejected: 1 });
  expect((await post(SMALL)).status).toBe(200);
  expect(await stop()).toEqual({ code: 0, signal: null, errors: '' });
});

it('aborts what takes longer than its grace period', async () => {
  const { post, health, stop } = await start({ GRACE_SECONDS: '0' });
  const long = post(LONG);
  await expect.poll(async () => (await health()).requests.running, SOON).toBe(1);
  const ended = stop();
  expect((await long).status).toBe(503);
  expect(await ended).toEqual({ code: 0, signal: null, errors: '' });
});
