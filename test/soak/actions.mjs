// What the soak does at random: one action is one call or a few that belong together, with an end that is known: a
// result, a refusal with a code, or an abort that was asked for. Any other end is an error of the soak.
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import {
  Autoencoder,
  BUNDLED_MODEL,
  ClipTextEncoder,
  convertModel,
  createPlan,
  encodeOnly,
  engineInfo,
  FluxPipeline,
  FluxTransformer,
  inspectWeights,
  jit,
  JitFluxError,
  JitSampler,
  latentOps,
  loadEncodedPrompts,
  memoryReport,
  planMemory,
  resolveModel,
  setLogger,
  T5Encoder,
  Tensor,
  TorchScriptModule,
} from '../../dist/index.js';

/** @typedef {'done' | 'refused' | 'aborted' | 'unexpected'} Outcome */
/** @typedef {{ action: string, message: string }} Unexpected */
/** @typedef {{ fixtures: string, bundled: string, snapshot: string }} Files folders; snapshot: a FLUX.1 at toy widths */

const FIXTURES = fileURLToPath(new URL('../fixtures', import.meta.url));

const PROMPTS = [
  'a red circle',
  'two striped yellow stars over green hills',
  'three pink hearts on a black background',
  'a green triangle and a blue square',
];
// Few shapes, since the engine keeps buffers by shape, and oneDNN its compiled kernels: what is kept should be complete
// before the last two thirds of a run, over which nothing may grow.
const SIZES = [
  { width: 64, height: 64 },
  { width: 128, height: 64 },
];
const PRESETS = /** @type {const} */ (['dense', 'jit-4x', 'jit-7x']);
const DTYPES = /** @type {const} */ (['float32', 'bfloat16']);
/** Made again and again, in every thread: always the same bytes. */
const REFERENCE = { prompt: 'a red circle', width: 64, height: 64, steps: 3, seed: 7 };
/** @type {Record<string, { code: string }>} */
const WEIGHT_FILES = JSON.parse(readFileSync(join(FIXTURES, 'weights', 'expected.json'), 'utf8'));
const REFUSED_FILES = Object.entries(WEIGHT_FILES).filter(([, { code }]) => code !== 'ok');
const ACCEPTED_FILES = Object.keys(WEIGHT_FILES).filter((name) => WEIGHT_FILES[name].code === 'ok');

/** An action takes a second, or many on a busy machine. One that does not end is an error, and not waited for longer. */
const DEADLINE_MS = 300_000;

/** Random numbers from a seed: mulberry32. @param {number} seed @returns {() => number} from 0 to below 1 */
export function randomNumbers(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** One action's chances, and what it must account for. */
class Draw {
  /** @type {Set<string>} codes with which it may end */
  accepted = new Set();
  refusals = 0;
  /** @type {(() => void)[]} */
  #ends = [];

  /** @param {() => number} random */
  constructor(random) {
    this.random = random;
  }

  /** A whole number from low to high, both included. @param {number} low @param {number} high */
  between(low, high) {
    return low + Math.floor(this.random() * (high - low + 1));
  }

  /** @template T @param {readonly T[]} list @returns {T} */
  pick(list) {
    return list[this.between(0, list.length - 1)];
  }

  /** @param {number} probability */
  chance(probability) {
    return this.random() < probability;
  }

  /**
   * Calls `work` after up to `most` milliseconds, unless the action has ended by then.
   * @param {number} most
   * @param {() => void} work
   * @param {string[]} codes with which the action may end from then on
   */
  later(most, work, ...codes) {
    const timer = setTimeout(() => {
      for (const code of codes) this.accepted.add(code);
      work();
    }, this.random() * most);
    this.#ends.push(() => clearTimeout(timer));
  }

  /**
   * A signal that fires at a random time, before the call or never.
   * @param {number} most milliseconds
   * @returns {AbortSignal}
   */
  signal(most) {
    const controller = new AbortController();
    if (this.chance(0.5)) return controller.signal;
    const reason = new Error('soak: enough');
    if (this.chance(0.9)) this.later(most, () => controller.abort(reason), 'ERR_JITFLUX_ABORTED');
    else {
      this.accepted.add('ERR_JITFLUX_ABORTED');
      controller.abort(reason);
    }
    return controller.signal;
  }

  /**
   * The call is refused with one of these codes.
   * @param {() => unknown} call @param {string[]} codes
   */
  async refused(call, ...codes) {
    let result;
    try {
      result = await call();
    } catch (error) {
      if (!(error instanceof JitFluxError) || !codes.includes(error.code)) throw error;
      this.refusals++;
      return;
    }
    throw new Error(`not refused with ${codes.join(' or ')} but ${String(result)}`);
  }

  end() {
    for (const end of this.#ends) end();
  }
}

/** Of this checkout, but the snapshot. */
export const ORIGINALS = { fixtures: FIXTURES, bundled: BUNDLED_MODEL };

/** Random work in this JavaScript environment. */
export class Soak {
  /** Kept over all actions. @type {FluxPipeline[]} */
  #residents = [];
  /** @type {string | undefined} */
  #reference;
  #files = 0;

  /**
   * @param {object} o
   * @param {() => number} o.random
   * @param {string} o.scratch a folder for files
   * @param {Files} o.files that are read
   * @param {string} o.name of this environment, for file names
   * @param {string | undefined} [o.reference] digest of the reference picture, if another environment has made it
   */
  constructor({ random, scratch, files, name, reference }) {
    this.random = random;
    this.scratch = scratch;
    this.files = files;
    this.name = name;
    this.#reference = reference;
  }

  /** Digest of the reference picture. */
  get reference() {
    return this.#reference;
  }

  /** Loads the pipelines that stay. @param {number} count 1 or 2 */
  async begin(count) {
    const all = [{ concurrency: 2 }, { concurrency: 2, dynamicBatching: { maxImages: 3 } }];
    for (const o of all.slice(0, count))
      this.#residents.push(await FluxPipeline.load(this.files.bundled, { threads: 1, ...o }));
    // Some of the work makes LibTorch warn.
    setLogger({ log: () => undefined });
    await this.#compare(this.#residents[0]);
  }

  async end() {
    for (const pipeline of this.#residents.splice(0)) await pipeline.dispose();
  }

  /**
   * One random action, to its end.
   * @returns {Promise<{ outcome: Outcome, refusals: number, unexpected?: Unexpected }>}
   */
  async act() {
    const draw = new Draw(this.random);
    const [action, work] = this.#choose();
    /** @type {NodeJS.Timeout | undefined} */
    let timer;
    try {
      const overdue = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error(`no end after ${DEADLINE_MS / 1000} s`)), DEADLINE_MS);
      });
      await Promise.race([work.call(this, draw), overdue]);
      return { outcome: draw.refusals > 0 ? 'refused' : 'done', refusals: draw.refusals };
    } catch (error) {
      if (error instanceof JitFluxError && draw.accepted.has(error.code))
        return { outcome: 'aborted', refusals: draw.refusals };
      const message = error instanceof Error ? (error.stack ?? error.message) : String(error);
      return { outcome: 'unexpected', refusals: draw.refusals, unexpected: { action, message } };
    } finally {
      clearTimeout(timer);
      draw.end();
    }
  }

  /** @returns {[string, (draw: Draw) => Promise<void>]} */
  #choose() {
    let left = this.random() * Soak.#actions.reduce((sum, [weight]) => sum + weight, 0);
    const [, name, work] = Soak.#actions.find(([weight]) => (left -= weight) < 0) ?? Soak.#actions[0];
    return [name, work];
  }

  /** @param {string} name */
  #fixture(name) {
    return join(this.files.fixtures, name);
  }

  /** @param {string} extension */
  #path(extension) {
    return join(this.scratch, `${this.name}-${this.#files++}${extension}`);
  }

  /** @param {Draw} draw */
  #request(draw) {
    return {
      prompt: draw.pick(PROMPTS),
      ...draw.pick(SIZES),
      steps: draw.pick([2, 4]),
      seed: draw.between(0, 1e6),
      preset: draw.pick(PRESETS),
    };
  }

  /** The same seed gives the same picture, in every thread and at any time. @param {FluxPipeline} pipeline */
  async #compare(pipeline) {
    const { images } = await pipeline.generate(REFERENCE);
    const digest = createHash('sha256').update(images[0].data).digest('hex');
    this.#reference ??= digest;
    if (digest !== this.#reference) throw new Error('the reference picture has changed');
  }

  /** @param {Draw} draw */
  async generate(draw) {
    const numImages = draw.pick([1, 1, 1, 2]);
    const signal = draw.signal(300);
    const pipeline = draw.pick(this.#residents);
    const { images, latents } = await pipeline.generate({
      ...this.#request(draw),
      numImages,
      signal,
      output: draw.chance(0.1) ? 'latent' : 'image',
    });
    // Half of them are left to the garbage collector.
    if (latents && draw.chance(0.5)) latents.dispose();
    for (const image of images) {
      const png = draw.chance(0.5) ? image.toPNG() : await image.toPNGAsync({ signal });
      if (png.length < 100) throw new Error(`a PNG file of ${png.length} bytes`);
      if (!draw.chance(0.2)) continue;
      const path = this.#path('.png');
      await writeFile(path, png);
      await rm(path);
    }
  }

  async samePicture() {
    await this.#compare(this.#residents[0]);
  }

  /** Requests at once, some of which go. @param {Draw} draw */
  async crowd(draw) {
    const pipeline = draw.pick(this.#residents);
    const outcomes = await Promise.allSettled(
      Array.from({ length: draw.between(2, 5) }, () =>
        pipeline.generate({ ...this.#request(draw), signal: draw.signal(400) }),
      ),
    );
    for (const outcome of outcomes) {
      if (outcome.status === 'fulfilled') continue;
      const { reason } = outcome;
      if (!(reason instanceof JitFluxError) || !draw.accepted.has(reason.code)) throw reason;
    }
  }

  /** @param {Draw} draw */
  async steps(draw) {
    const last = draw.between(0, 3);
    const run = draw
      .pick(this.#residents)
      .steps({ ...this.#request(draw), steps: 3, signal: draw.signal(300) });
    for await (const event of run) {
      if (draw.chance(0.3)) await event.latents.toFloat32Array();
      if (event.step === last) break;
    }
  }

  /** A callback that fails ends its own request with its own error. @param {Draw} draw */
  async throwing(draw) {
    const mine = new Error('soak: mine');
    const fail = () => {
      throw mine;
    };
    const run = draw.pick(this.#residents).generate({ ...this.#request(draw), onStep: fail });
    await run.then(
      () => Promise.reject(new Error('the error of a callback was lost')),
      (error) => (error === mine ? undefined : Promise.reject(error)),
    );
  }

  /** @param {Draw} draw */
  #loadOptions(draw) {
    return {
      threads: 1,
      dtype: draw.pick(DTYPES),
      ...(draw.chance(0.3) && { quantize: /** @type {const} */ ('int8') }),
      ...(draw.chance(0.3) && { packWeights: false }),
      ...(draw.chance(0.2) && { keepModulation: false }),
      ...(draw.chance(0.2) && { keepTextEncoders: false }),
      ...(draw.chance(0.2) && { keepDecoder: false }),
      ...(draw.chance(0.2) && { memoryCheck: false }),
      ...(draw.chance(0.2) && { verify: true }),
      ...(draw.chance(0.5) && { onProgress: () => undefined }),
    };
  }

  /** A pipeline of one's own: loaded, used, and disposed, disposed in the middle, or forgotten. @param {Draw} draw */
  async pipeline(draw) {
    await this.#ownPipeline(draw, this.files.bundled, this.#request(draw), 400);
  }

  /** The same with native text encoders and autoencoder. @param {Draw} draw */
  async snapshotPipeline(draw) {
    const request = { ...this.#request(draw), width: 64, height: 64, steps: 2, maxSequenceLength: 32 };
    await this.#ownPipeline(draw, this.files.snapshot, request, 1000);
  }

  /**
   * @param {Draw} draw @param {string} model @param {import('../../dist/index.js').GenerateRequest} request
   * @param {number} most milliseconds until it is aborted or disposed
   */
  async #ownPipeline(draw, model, request, most) {
    const o = this.#loadOptions(draw);
    const pipeline = await FluxPipeline.load(model, { ...o, signal: draw.signal(most) });
    const way = draw.pick(['dispose', 'dispose', 'wait', 'forget', 'middle', 'middle']);
    /** @type {Promise<void> | undefined} */
    let disposed;
    try {
      if (way === 'middle')
        draw.later(
          most,
          () => (disposed = pipeline.dispose()),
          'ERR_JITFLUX_ABORTED',
          'ERR_JITFLUX_DISPOSED',
        );
      if (way === 'forget' && draw.chance(0.3)) {
        // The iteration is forgotten as well, and with it the turn that it holds.
        await pipeline.steps(request).next();
        return;
      }
      await pipeline.generate({ ...request, signal: draw.signal(most) });
      if (draw.chance(0.3)) (await pipeline.encodePrompt(draw.pick(PROMPTS))).dispose();
      pipeline.stats();
    } finally {
      if (way === 'wait') await pipeline[Symbol.asyncDispose]();
      else if (way !== 'forget') await (disposed ?? pipeline.dispose());
    }
    if (way !== 'forget')
      await draw.refused(() => pipeline.generate(request), 'ERR_JITFLUX_DISPOSED', 'ERR_JITFLUX_ABORTED');
  }

  /** The transformer by itself: over all tokens, over some, and through the sampler. @param {Draw} draw */
  async transformer(draw) {
    const name = draw.pick(['flux/flux-mini.safetensors', 'flux/flux-nano.safetensors']);
    const model = await FluxTransformer.load(this.#fixture(name), {
      threads: 1,
      dtype: draw.pick(DTYPES),
      ...(draw.chance(0.4) && { quantize: /** @type {const} */ ('int8') }),
      ...(draw.chance(0.3) && { packWeights: false }),
      signal: draw.signal(50),
    });
    const { textDim, pooledDim, inChannels } = model.config;
    const prompt = Tensor.randn([1, 8, textDim], { seed: draw.between(0, 99) });
    const pooled = Tensor.randn([1, pooledDim], { seed: 2 });
    const sigmas = [1, 0.6, 0.3];
    const conditioning = await model.condition({ prompt, pooled, sigmas });
    /** @type {[number, number]} */
    const grid = [8, 8];
    const latents = Tensor.randn([1, 64, inChannels], { seed: 3 });
    if (draw.chance(0.3))
      draw.later(20, () => model.dispose(), 'ERR_JITFLUX_ABORTED', 'ERR_JITFLUX_DISPOSED');
    const velocity = await model.forward({ latents, grid, conditioning, step: 1, signal: draw.signal(20) });
    const anchors = Int32Array.from([0, 9, 18, 27, 36, 45, 54, 63]);
    const sparse = await model.forward({ latents, anchors, grid, conditioning, step: [0] });
    const lifted = await jit.lift(sparse, anchors, grid);
    await jit.selectTokens(lifted, { anchors, count: 8, grid });
    if (draw.chance(0.5)) {
      const sampler = new JitSampler(model.bind(conditioning), { grid, latents, steps: 3, seed: 1 });
      for await (const event of sampler) if (event.step === 0 && draw.chance(0.5)) break;
      if (draw.chance(0.5)) sampler.dispose();
    }
    if (draw.chance(0.3)) return; // all of it is forgotten
    for (const one of [prompt, pooled, conditioning, latents, velocity, sparse, lifted]) one.dispose();
    if (draw.chance(0.5)) model.dispose();
    else await model[Symbol.asyncDispose]();
  }

  /** CLIP, T5 and the autoencoder by themselves. @param {Draw} draw */
  async encoders(draw) {
    const o = { threads: 1, dtype: draw.pick(DTYPES) };
    const signal = draw.signal(50);
    const ids = Tensor.from(
      BigInt64Array.from({ length: 16 }, () => BigInt(draw.between(3, 299))),
      [1, 16],
    );
    /** @type {(import('../../dist/index.js').Tensor)[]} */
    const made = [ids];
    const which = draw.pick(['clip', 't5', 'vae']);
    if (which === 'clip') {
      const model = await ClipTextEncoder.load(
        this.#fixture(draw.pick(['text-vae/clip.safetensors', 'text-vae/clip.pt'])),
        { ...o, settings: { heads: 4, eps: 1e-5, eosTokenId: 2 } },
      );
      const { pooled, hidden } = await model.encode(ids, { signal });
      made.push(pooled, hidden);
      if (draw.chance(0.8)) model.dispose();
    } else if (which === 't5') {
      const model = await T5Encoder.load(this.#fixture('text-vae/t5.safetensors'), o);
      made.push(await model.encode(ids, { signal }));
      if (draw.chance(0.8)) model.dispose();
    } else {
      const model = await Autoencoder.load(this.#fixture('text-vae/vae.safetensors'), o);
      const latents = Tensor.randn([1, 16, 8, 8], { seed: 1 });
      const picture = await model.decode(latents, {
        signal,
        ...(draw.chance(0.3) && { tiling: { tileSize: 6, overlap: 2 } }),
      });
      const { mean, logvar } = await model.encode(picture, { signal });
      const tokens = await latentOps.pack(mean);
      made.push(latents, picture, mean, logvar, tokens);
      await latentOps.toImage(picture);
      if (draw.chance(0.8)) model.dispose();
    }
    if (draw.chance(0.7)) for (const one of made) one.dispose();
  }

  /** Many small handles, most of them forgotten. @param {Draw} draw */
  async tensors(draw) {
    for (let i = 0; i < 50; i++) {
      const one = Tensor.randn([1, 16, 8], { seed: i });
      const other = one.clone();
      const stacked = await Tensor.stack([one, other]);
      if (draw.chance(0.3)) await stacked.toFloat32Array();
      if (draw.chance(0.3)) for (const each of [one, other, stacked]) each.dispose();
      if (!one.disposed) continue;
      await draw.refused(() => one.toFloat32Array(), 'ERR_JITFLUX_DISPOSED');
      await draw.refused(() => jit.importance(one, [4, 4]), 'ERR_JITFLUX_DISPOSED');
    }
  }

  /** Weight files in other forms. @param {Draw} draw */
  async convert(draw) {
    const source = draw.pick([
      ...ACCEPTED_FILES.map((name) => `weights/${name}`),
      'flux/flux-nano.safetensors',
      'flux/flux-nano.traced-wrapped.pt',
      'flux/flux-mini.safetensors',
      'text-vae/clip.pt',
    ]);
    const output = this.#path(draw.pick(['.pt', '.safetensors']));
    try {
      await convertModel(this.#fixture(source), output, {
        dtype: draw.pick(['keep', 'float32', 'bfloat16', 'float16']),
        resume: draw.chance(0.5),
        signal: draw.signal(20),
        ...(draw.chance(0.5) && { onProgress: () => undefined }),
      });
      await inspectWeights(output);
    } finally {
      await rm(output, { force: true });
      await rm(`${output}.partial`, { force: true });
      await rm(`${output}.partial.json`, { force: true });
    }
  }

  /** @param {Draw} draw */
  async convertSnapshot(draw) {
    const output = this.#path('');
    try {
      await convertModel(this.files.snapshot, output, {
        format: draw.pick(['torchscript', 'safetensors']),
        dtype: draw.pick(['keep', 'bfloat16']),
        signal: draw.signal(200),
      });
    } finally {
      await rm(output, { recursive: true, force: true });
    }
  }

  /** Files that must be refused, as weights, as a model, as what they are not. @param {Draw} draw */
  async hostileFiles(draw) {
    for (let i = 0; i < 5; i++) {
      const [name, { code }] = draw.pick(REFUSED_FILES);
      await draw.refused(() => FluxTransformer.load(this.#fixture(`weights/${name}`), { threads: 1 }), code);
    }
    const any = Object.values(WEIGHT_FILES).map(({ code }) => code);
    const path = this.#fixture(`weights/${draw.pick(REFUSED_FILES)[0]}`);
    await draw.refused(() => T5Encoder.load(path), ...any);
    await draw.refused(() => FluxPipeline.load(path), ...any, 'ERR_JITFLUX_INVALID_MODEL');
    await draw.refused(() => convertModel(path, this.#path('.pt'), { verify: true }), ...any);
    await draw.refused(() => FluxPipeline.load(this.#fixture('convert')), 'ERR_JITFLUX_INVALID_MODEL');
    await draw.refused(() => FluxPipeline.load(join(this.scratch, 'none')), 'ERR_JITFLUX_FILE_NOT_FOUND');
    // Random bytes, and a good file with random bytes in its header.
    const bytes = Buffer.from(readFileSync(this.#fixture('weights/pico.safetensors')));
    for (let i = 0; i < 20; i++) bytes[draw.between(0, 2000)] = draw.between(0, 255);
    const damaged = this.#path('.safetensors');
    await writeFile(damaged, bytes);
    try {
      (await FluxTransformer.load(damaged, { threads: 1 })).dispose();
    } catch (error) {
      if (!(error instanceof JitFluxError)) throw error;
      draw.refusals++;
    } finally {
      await rm(damaged);
    }
  }

  /** A program that may not run, and one that may. @param {Draw} draw */
  async programs(draw) {
    const path = this.#fixture('native/warns.pt');
    await draw.refused(() => TorchScriptModule.load(path), 'ERR_JITFLUX_CODE_NOT_ALLOWED');
    const module = await TorchScriptModule.load(path, { allowTorchScriptCode: true });
    const input = Tensor.from(new Float32Array(2), [2]);
    const outputs = await module.run([input], { signal: draw.signal(5) });
    if (draw.chance(0.7)) for (const one of [input, ...outputs, module]) one.dispose();
  }

  /** What no caller should pass. @param {Draw} draw */
  async wrongArguments(draw) {
    const pipeline = draw.pick(this.#residents);
    const request = this.#request(draw);
    const wrong = /** @type {Record<string, unknown>[]} */ ([
      { width: 65 },
      { width: -64 },
      { height: Number.NaN },
      { steps: 0 },
      { steps: 1.5 },
      { prompt: 7 },
      { prompt: [] },
      { seed: -1 },
      { seed: 2 ** 60 },
      { guidance: -1 },
      { numImages: 65 },
      { output: 'video' },
      { latents: {} },
      { initialAnchors: Int32Array.of(0, 0) },
      { initialAnchors: Int32Array.of(-1) },
    ]);
    const codes = [
      'ERR_JITFLUX_INVALID_ARGUMENT',
      'ERR_JITFLUX_INVALID_ANCHORS',
      'ERR_JITFLUX_INVALID_TENSOR',
    ];
    for (let i = 0; i < 5; i++)
      await draw.refused(() => pipeline.generate({ ...request, ...draw.pick(wrong) }), ...codes);
    await draw.refused(
      () => pipeline.generate({ ...request, preset: /** @type {any} */ ('jit-9x') }),
      'ERR_JITFLUX_UNKNOWN_PRESET',
    );
    await draw.refused(() => Tensor.from(new Float32Array(3), [2]), 'ERR_JITFLUX_INVALID_TENSOR');
    await draw.refused(() => Tensor.randn([1, 2], { seed: -1 }), 'ERR_JITFLUX_INVALID_ARGUMENT');
    const one = Tensor.randn([1, 16, 4], { seed: 1 });
    await draw.refused(() => jit.gather(one, Int32Array.of(16)), ...codes);
    await draw.refused(() => jit.lift(one, Int32Array.of(1, 2), [4, 4]), ...codes);
    await draw.refused(() => jit.importance(/** @type {any} */ ({ handle: {} }), [4, 4]), ...codes);
    one.dispose();
  }

  /** Requests beyond a queue. @param {Draw} draw */
  async flood(draw) {
    const pipeline = await FluxPipeline.load(this.files.bundled, { threads: 1, maxQueue: 1 });
    try {
      const outcomes = await Promise.allSettled(
        Array.from({ length: 6 }, () => pipeline.generate({ ...this.#request(draw), width: 64, height: 64 })),
      );
      for (const outcome of outcomes) {
        if (outcome.status === 'fulfilled') continue;
        if (outcome.reason?.code !== 'ERR_JITFLUX_QUEUE_FULL') throw outcome.reason;
        draw.refusals++;
      }
      if (draw.refusals !== 4) throw new Error(`${draw.refusals} of 6 requests were refused, not 4`);
    } finally {
      await pipeline.dispose();
    }
  }

  /** @param {Draw} draw */
  async prompts(draw) {
    const signal = draw.signal(100);
    const pipeline = draw.pick(this.#residents);
    const model = draw.pick([this.files.bundled, this.files.snapshot]);
    const encoded = draw.chance(0.5)
      ? await pipeline.encodePrompt([draw.pick(PROMPTS), draw.pick(PROMPTS)], { signal })
      : await encodeOnly(model, draw.pick(PROMPTS), { threads: 1, maxSequenceLength: 16, signal });
    const path = this.#path('.safetensors');
    try {
      await encoded.save(path);
      const loaded = await loadEncodedPrompts(path);
      if (draw.chance(0.5)) loaded.dispose();
      await draw.refused(
        () => loadEncodedPrompts(this.#fixture('weights/overlap.safetensors')),
        'ERR_JITFLUX_INVALID_ARGUMENT',
        'ERR_JITFLUX_UNSUPPORTED_FORMAT',
        'ERR_JITFLUX_CORRUPT_FILE',
        'ERR_JITFLUX_UNSAFE_FILE',
      );
    } finally {
      if (draw.chance(0.7)) encoded.dispose();
      await rm(path, { force: true });
    }
  }

  /** What only asks. @param {Draw} draw */
  async facts(draw) {
    engineInfo();
    await memoryReport();
    await this.#residents[0].memory();
    const spec = await resolveModel(draw.pick([this.files.bundled, this.files.snapshot]));
    await planMemory(spec);
    createPlan({ grid: [16, 16], preset: 'jit-7x' });
    await inspectWeights(this.#fixture(`weights/${draw.pick(ACCEPTED_FILES)}`), { signal: draw.signal(5) });
    setLogger({ level: draw.pick(['error', 'debug']), log: () => undefined });
  }

  /** @type {[weight: number, name: string, action: (this: Soak, draw: Draw) => Promise<void>][]} */
  static #actions = [
    [20, 'generate', Soak.prototype.generate],
    [3, 'same picture', Soak.prototype.samePicture],
    [4, 'crowd', Soak.prototype.crowd],
    [8, 'steps', Soak.prototype.steps],
    [4, 'callback that throws', Soak.prototype.throwing],
    [8, 'own pipeline', Soak.prototype.pipeline],
    [4, 'own pipeline of a snapshot', Soak.prototype.snapshotPipeline],
    [10, 'transformer', Soak.prototype.transformer],
    [8, 'encoders', Soak.prototype.encoders],
    [6, 'tensors', Soak.prototype.tensors],
    [8, 'convert', Soak.prototype.convert],
    [1, 'convert a snapshot', Soak.prototype.convertSnapshot],
    [6, 'hostile files', Soak.prototype.hostileFiles],
    [4, 'programs', Soak.prototype.programs],
    [6, 'wrong arguments', Soak.prototype.wrongArguments],
    [2, 'flood', Soak.prototype.flood],
    [4, 'prompts', Soak.prototype.prompts],
    [4, 'facts', Soak.prototype.facts],
  ];
}
