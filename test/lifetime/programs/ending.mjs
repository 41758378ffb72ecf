// ending.mjs <work> <place> <way>: begins work for far longer than it takes to end, and ends the process (or, run as a
// worker thread with the same arguments, the thread) in the middle of it.
//   work   what runs meanwhile
//   place  where the end is called
//   way    how
import { spawnSync } from 'node:child_process';
import { setMaxListeners } from 'node:events';
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { isMainThread, parentPort, workerData } from 'node:worker_threads';

/** @typedef {() => void} Act */

/** @type {string[]} */
const [work, place, way] = isMainThread ? process.argv.slice(2) : workerData;
const fixture = (/** @type {string} */ path) => new URL(`../../fixtures/${path}`, import.meta.url).pathname;
const MINI = fixture('flux/flux-mini.safetensors');
const controller = new AbortController();
const { signal } = controller;
setMaxListeners(0, signal);
/** @type {(count: number, run: (i: number) => unknown) => void} */
const many = (count, run) => {
  for (let i = 0; i < count; i++) void Promise.resolve(run(i)).catch(() => {});
};
let beforeWork = () => {};
/** The callback for the first of many. @type {(begun: Act) => (i: number) => Act} */
const first = (begun) => (i) => (i === 0 ? begun : () => {});

const { FluxTransformer, Autoencoder, T5Encoder, Tensor, TorchScriptModule } =
  await import('../../../dist/engine/index.js');
const loadMini = (/** @type {Act} */ onProgress = () => {}) =>
  FluxTransformer.load(MINI, { ropeAxes: [8, 12, 12], onProgress, signal });

/**
 * Begins work, and calls back in the middle of it: from a callback of ours where the work has one.
 * @type {Record<string, (begun: Act) => Promise<void>>}
 */
const WORKS = {
  async load(begun) {
    many(300, (i) => loadMini(first(begun)(i)));
  },
  async step(begun) {
    const model = await loadMini();
    const [prompt, pooled] = [Tensor.randn([1, 16, 96], { seed: 1 }), Tensor.randn([1, 48], { seed: 1 })];
    const tokens = Tensor.randn([1, 4096, 64], { seed: 1 });
    const conditioning = await model.condition({ prompt, pooled, sigmas: [1] });
    beforeWork();
    /** @type {[number, number]} */
    const grid = [64, 64];
    const rest = { tokens, grid, conditioning, step: 0, signal };
    many(300, (i) => model.forward({ ...rest, onProgress: first(begun)(i) }));
  },
  async encode(begun) {
    const model = await T5Encoder.load(fixture('text-vae/t5.safetensors'));
    const ids = Tensor.from(new BigInt64Array(512).fill(5n), [1, 512]);
    await model.encode(ids, { signal });
    many(300, () => model.encode(ids, { signal }));
    begun();
  },
  async decode(begun) {
    const model = await Autoencoder.load(fixture('text-vae/vae.safetensors'));
    const latents = Tensor.randn([1, model.config.latentChannels, 64, 64], { seed: 1 });
    many(300, (i) => model.decode(latents, { signal, onProgress: first(begun)(i) }));
  },
  async module(begun) {
    const module = await TorchScriptModule.load(fixture('native/warns.pt'), { allowTorchScriptCode: true });
    const big = Tensor.randn([1 << 20], { seed: 1 });
    await module.run([big]);
    many(300, () => module.run([big], { signal }));
    begun();
  },
  /** What cannot be interrupted. */
  async endless(begun) {
    const module = await TorchScriptModule.load(fixture('native/endless.pt'), { allowTorchScriptCode: true });
    many(2, () => module.run([Tensor.randn([2], { seed: 1 })], { signal }));
    begun();
  },
  async convert(begun) {
    const { convertModel } = await import('../../../dist/convert/index.js');
    const folder = mkdtempSync(join(tmpdir(), 'converted-'));
    many(300, (i) => convertModel(MINI, join(folder, `${i}.pt`), { signal, onProgress: first(begun)(i) }));
  },
  async png(begun) {
    const { encodePngAsync } = await import('../../../dist/image/index.js');
    const image = { width: 1024, height: 1024, data: new Uint8Array(3 << 20) };
    await encodePngAsync({ width: 1, height: 1, data: new Uint8Array(3) });
    many(100, () => encodePngAsync(image, {}, { signal }));
    begun();
  },
  /** A whole picture with its own callback; its steps are events for whoever iterates. */
  async picture(begun) {
    const { BUNDLED_MODEL, FluxPipeline } = await import('../../../dist/index.js');
    const pipeline = await FluxPipeline.load(BUNDLED_MODEL);
    const request = { prompt: 'a red circle', width: 256, height: 256, steps: 50, signal };
    many(10, (i) => pipeline.generate({ ...request, onStep: first(begun)(i) }));
  },
  async events(begun) {
    const { BUNDLED_MODEL, FluxPipeline } = await import('../../../dist/index.js');
    const pipeline = await FluxPipeline.load(BUNDLED_MODEL, { concurrency: 2 });
    const request = { prompt: 'a red circle', width: 256, height: 256, steps: 50, signal };
    const steps = pipeline.steps(request);
    let next = steps.next(); // takes its turn
    many(10, () => pipeline.generate(request));
    for (; !(await next).done; next = steps.next()) begun();
  },
};

/** What calls `end` once work has begun. @type {Record<string, (end: Act) => Act | Promise<Act>>} */
const PLACES = {
  callback: (end) => end,
  promise: (end) => () => void Promise.resolve().then(end),
  timer: (end) => () => setTimeout(end, 1),
  /** A promise of ours that settles: of the other library, whose thread is free. */
  settled: (end) => async () => {
    const { describeWeights } = await import('../../../dist/engine/describe.js');
    await describeWeights(MINI).finally(end);
  },
  /** An abort listener beside ours. */
  listener: (end) => {
    signal.addEventListener('abort', end);
    return () => setImmediate(() => controller.abort());
  },
  /** The handler of a message that the job in front of the work has sent. */
  log: async (end) => {
    const { setLogger } = await import('../../../dist/index.js');
    const warns = await TorchScriptModule.load(fixture('native/warns.pt'), { allowTorchScriptCode: true });
    setLogger({ level: 'warn', log: end });
    beforeWork = () => void warns.run([Tensor.randn([2], { seed: 1 })]);
    return () => {};
  },
  finalizer: (end) => {
    const registry = new FinalizationRegistry(end);
    return () => {
      setFlagsFromString('--expose-gc');
      const collect = runInNewContext('gc');
      registry.register(Tensor.randn([2], { seed: 1 }), 'tensor');
      const again = () => {
        collect();
        setTimeout(again, 1);
      };
      setTimeout(again, 1);
    };
  },
  /** Where the thread stays until it is terminated. */
  stays: () => () => {
    parentPort?.postMessage('here');
    for (;;);
  },
};

const later = (/** @type {Act} */ what) => setImmediate(what);
const kill = (/** @type {NodeJS.Signals} */ name) => process.kill(process.pid, name);
const child = (/** @type {string} */ module) => {
  const { status } = spawnSync(process.execPath, ['-e', module]);
  process.exit(status === 0 ? 7 : 8);
};
/** @type {Record<string, Act>} */
const WAYS = {
  exit: () => process.exit(7),
  reallyExit: () => /** @type {any} */ (process).reallyExit(7),
  'exit without listeners': () => {
    process.removeAllListeners('exit');
    process.exit(7);
  },
  'a listener that exits': () => {
    process.prependListener('exit', () => process.exit(7));
    process.exit(3);
  },
  'a listener that throws': () =>
    later(() => {
      process.prependListener('exit', () => {
        throw new Error('mine');
      });
      process.exit(3);
    }),
  'an uncaught exception': () =>
    later(() => {
      process.removeAllListeners('exit');
      throw new Error('mine');
    }),
  'an unhandled rejection': () => {
    process.removeAllListeners('exit');
    void Promise.reject(new Error('mine'));
  },
  'an exception with a handler': () => {
    process.on('uncaughtException', () => process.exit(7));
    later(() => {
      throw new Error('mine');
    });
  },
  'a child process': () => child(''),
  'a child process with the engine': () =>
    child(`import(${JSON.stringify(new URL('../../../dist/index.js', import.meta.url).href)})
      .then(({ engineInfo }) => engineInfo())`),
  abort: () => controller.abort(),
  SIGTERM: () => kill('SIGTERM'),
  SIGINT: () => kill('SIGINT'),
  SIGHUP: () => kill('SIGHUP'),
  'SIGTERM with a handler': () => {
    process.on('SIGTERM', () => process.exit(7));
    kill('SIGTERM');
  },
  'SIGINT with a handler': () => {
    process.on('SIGINT', () => process.exit(7));
    kill('SIGINT');
  },
  'SIGHUP with a handler': () => {
    process.on('SIGHUP', () => process.exit(7));
    kill('SIGHUP');
  },
};

let ended = false;
await WORKS[work](
  await PLACES[place](() => {
    if (ended) return;
    ended = true;
    return WAYS[way]();
  }),
);
