/** What the engine and LibTorch have to say reaches the logger. */
import { afterEach, describe, expect, it } from 'vitest';

import { type LogEntry, setLogger } from '../../src/logging.js';
import { native } from '../../src/engine/call.js';
import { Tensor, TorchScriptModule } from '../../src/engine/index.js';
import { nextTurn } from '../support/deferred.js';
import { runSource } from '../support/program.js';
import { fixturePath } from '../support/safetensors.js';

const RUNTIME = new URL('../../dist/engine/index.js', import.meta.url).href;
const LOGGING = new URL('../../dist/logging.js', import.meta.url).href;
const WARNING = { level: 'warn', source: 'native', message: "a warning of LibTorch's" };

async function warn(): Promise<void> {
  const options = { allowTorchScriptCode: true };
  const module = await TorchScriptModule.load(fixturePath('native/warns.pt'), options);
  for (const result of await module.run([Tensor.from(new Float32Array(2), [2])])) result.dispose();
  module.dispose();
  // Messages were sent before the result, and come with this turn of the event loop.
  await nextTurn();
}

afterEach(() => setLogger());

describe('native messages', () => {
  it('bring the warnings of LibTorch', async () => {
    const entries: LogEntry[] = [];
    setLogger({ level: 'warn', log: (entry) => entries.push(entry) });
    await warn();
    expect(entries).toEqual([WARNING]);
  });

  it('stop at the level asked for', async () => {
    const entries: LogEntry[] = [];
    setLogger({ level: 'error', log: (entry) => entries.push(entry) });
    await warn();
    setLogger({ level: 'silent', log: (entry) => entries.push(entry) });
    await warn();
    expect(entries).toEqual([]);
  });

  it('survive a handler that throws', async () => {
    let calls = 0;
    native().setLogHandler(() => {
      calls++;
      throw new Error('full');
    }, 'debug');
    await warn();
    await warn();
    expect(calls).toBe(2);
  });

  it('may change the handler from within', async () => {
    const messages: string[] = [];
    native().setLogHandler((level) => {
      messages.push(level);
      native().setLogHandler(undefined, 'error');
    }, 'debug');
    await warn();
    await warn();
    expect(messages).toEqual(['warn']);
  });

  it.each([
    [1, 'warn'],
    [null, 'warn'],
    [() => undefined, 'loud'],
    [() => undefined, undefined],
  ])('refuse %s, %s', (handler, level) => {
    expect(() => native().setLogHandler(handler as never, level as never)).toThrow(
      expect.objectContaining({ code: 'ERR_JITFLUX_INVALID_ARGUMENT' }),
    );
  });

  it('say once with what the engine computes, and do not keep the process alive', () => {
    const { status, stdout, stderr } = runSource(
      `
      const { Tensor } = await import(${JSON.stringify(RUNTIME)});
      const { setLogger } = await import(${JSON.stringify(LOGGING)});
      setLogger({ level: 'debug', log: ({ level, message }) => console.log(level, message) });
      for (let i = 0; i < 3; i++) await Tensor.randn([1, 4], { seed: i }).toFloat32Array();
      await new Promise((resolve) => setImmediate(resolve));
      `,
      { seconds: 30 },
    );
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout).toMatch(/^debug jit-flux \S+ computes with \w+ kernels and \d+ threads\n$/);
  });

  it('are each worker thread’s own, and end with it', () => {
    const source = `
      import { parentPort } from 'node:worker_threads';
      const { Tensor, TorchScriptModule } = await import(${JSON.stringify(RUNTIME)});
      const { setLogger } = await import(${JSON.stringify(LOGGING)});
      setLogger({ level: 'debug', log: ({ level }) => parentPort.postMessage(level) });
      const module = await TorchScriptModule.load(
        ${JSON.stringify(fixturePath('native/warns.pt'))}, { allowTorchScriptCode: true });
      for (let i = 0; i < 500; i++) void module.run([Tensor.from(new Float32Array(2), [2])]);
    `;
    const { status, signal, stdout, stderr } = runSource(
      `
      import { once } from 'node:events';
      import { Worker } from 'node:worker_threads';
      const { Tensor } = await import(${JSON.stringify(RUNTIME)});
      const { setLogger } = await import(${JSON.stringify(LOGGING)});
      setLogger({ level: 'warn', log: () => console.log('here') });
      await Tensor.randn([1, 4], { seed: 1 }).toFloat32Array();
      for (let i = 0; i < 3; i++) {
        const worker = new Worker(new URL('data:text/javascript,' + encodeURIComponent(${JSON.stringify(source)})));
        const levels = new Set();
        await new Promise((resolve) => worker.on('message', (level) => {
          levels.add(level);
          if (levels.has('warn')) resolve();
        }));
        await worker.terminate();
        console.log([...levels].join());
      }
      `,
      { seconds: 60 },
    );
    expect({ status, signal, stdout }, stderr).toEqual({
      status: 0,
      signal: null,
      stdout: 'debug,warn\n'.repeat(3),
    });
  });
});
