/** Prompt to picture: text conditioner, transformer, sampler, decoder. */
import { ERROR_CODES, invalidArgument, JitFluxError, throwIfAborted } from '../errors.js';
import type { PngMetadata } from '../image/index.js';
import {
  deviceIndex,
  FluxTransformer,
  JitSampler,
  latentOps,
  nativeLoadOptions,
  Tensor,
} from '../runtime/index.js';
import type { Device, FluxConfig, LoadOptions, StepEvent } from '../types.js';
import { Activity } from './activity.js';
import { EncodedPrompts } from './encoded-prompts.js';
import { FairLock } from './fair-lock.js';
import { GeneratedImage } from './image.js';
import { type LatentDecoder, loadLatentDecoder } from './latent-decoder.js';
import { checkMemory, memoryAvailableTo, planModelMemory } from './memory-plan.js';
import { checkChannels, type ModelInfo, resolveModel } from './model-source.js';
import { checkPrompts, plainSeed, type ResolvedRequest, resolveRequest } from './request.js';
import { onDevice, Resources } from './resources.js';
import {
  checkConditions,
  checkSourceWidths,
  loadTextConditioner,
  type TextConditioner,
} from './text-conditioner.js';
import type { GenerateRequest, GenerateResult, GenerateTimings } from './types.js';
import { VERSION } from './version.js';

/** The loaded parts of a model. */
interface Parts {
  /** Undefined with `textEncoders: false`. */
  text?: TextConditioner;
  transformer: FluxTransformer;
  decoder: LatentDecoder;
}

/**
 * A model directory, loaded and ready to generate. Requests of one pipeline run one after another, in the order in
 * which they were made; two pipelines run independently.
 *
 * @example
 * await using pipeline = await FluxPipeline.load('models/flux-tiny');
 * const { images } = await pipeline.generate({ prompt: 'a red circle over the sea', seed: 7 });
 * await writeFile('circle.png', images[0].toPNG());
 */
export class FluxPipeline {
  /** Name, limits and defaults of the loaded model. */
  readonly model: ModelInfo;
  /** Architecture of the transformer, inferred from its weights. */
  readonly config: FluxConfig;

  readonly #parts: Parts;
  readonly #device: Device;
  readonly #lock = new FairLock();
  readonly #activities = new Set<Activity>();
  #disposing: Promise<void> | undefined;

  private constructor(model: ModelInfo, parts: Parts, device: Device) {
    this.model = model;
    this.config = parts.transformer.config;
    this.#parts = parts;
    this.#device = device;
  }

  /**
   * Loads a model: a directory with our own `model_index.json` (flux-tiny), a FLUX.1 snapshot in diffusers' layout
   * (safetensors or TorchScript archives), or an original checkpoint (`flux1-dev.safetensors` or its directory); see
   * docs/models.md. What the parts are and whether they fit together and into memory is checked before weights are
   * read.
   * @throws ERR_JITFLUX_FILE_NOT_FOUND or ERR_JITFLUX_INVALID_MODEL for the model, ERR_JITFLUX_OUT_OF_MEMORY if it
   *   cannot fit, what `FluxTransformer.load` throws for the weights, and ERR_JITFLUX_CODE_NOT_ALLOWED for TorchScript
   *   text encoders and decoders other than the bundled model's without `allowTorchScriptCode`
   */
  static async load(model: string, o: LoadOptions = {}): Promise<FluxPipeline> {
    const { signal, device = 'cpu' } = o;
    // A bad option is refused before anything is loaded.
    nativeLoadOptions(o);
    for (const where of [o.textEncoderDevice, o.decoderDevice]) deviceIndex(where);
    const source = await resolveModel(model, { textEncoders: o.textEncoders, signal });
    let { packWeights, weightStreaming } = o;
    if (o.memoryCheck !== false) {
      const request = typeof o.memoryCheck === 'object' ? o.memoryCheck : {};
      const plan = planModelMemory(source, { ...o, ...request }, await memoryAvailableTo(o));
      checkMemory(plan);
      packWeights ??= plan.blockWeights !== 'mapped';
      weightStreaming ??= plan.blockWeights === 'streamed';
    }
    const parts: Partial<Parts> = {};
    try {
      // Small files first: a bad tokenizer or encoder is found before the transformer is read.
      if (source.text) parts.text = await loadTextConditioner(source, o);
      const { ropeAxes, weights } = source.transformer;
      parts.transformer = await FluxTransformer.load(weights.path, {
        ...o,
        ...(packWeights !== undefined && { packWeights }),
        ...(weightStreaming !== undefined && { weightStreaming }),
        ...(ropeAxes && { ropeAxes }),
      });
      const { config } = parts.transformer;
      checkSourceWidths(source, config);
      checkChannels(config, source.info.decoder.channels, weights.path, source.decoder.weights.path);
      parts.decoder = await loadLatentDecoder(source, o);
      throwIfAborted(signal);
      return new FluxPipeline(source.info, parts as Parts, device);
    } catch (error) {
      disposeParts(parts);
      throw error;
    }
  }

  /**
   * Generates pictures. The whole request is checked first; a bad one is refused before anything runs.
   * @throws ERR_JITFLUX_INVALID_ARGUMENT and its kin for the request, ERR_JITFLUX_ABORTED, ERR_JITFLUX_DISPOSED
   */
  async generate(request: GenerateRequest): Promise<GenerateResult> {
    const run = this.steps(request);
    for (;;) {
      const next = await run.next();
      if (next.done) return next.value;
    }
  }

  /**
   * Generates pictures step by step: yields after every sampling step and returns what {@link generate} returns. Other
   * requests of this pipeline wait until the iteration is over; leave a `for await` by `break`, or call `return()`.
   * @throws at the call, for a bad request
   */
  steps(request: GenerateRequest): AsyncGenerator<StepEvent<Tensor>, GenerateResult, undefined> {
    this.#assertOpen();
    const resolved = resolveRequest(request, this.model, this.config);
    if (!resolved.conditioning) this.#assertTextEncoders();
    return this.#run(resolved);
  }

  /**
   * Runs tokenizers and text encoders, in turn with the other requests of this pipeline. The result can be used in any
   * number of requests (`conditioning`), saved, and loaded elsewhere; the caller disposes it.
   * @param o.maxSequenceLength number of text tokens, at most the model's
   * @throws ERR_JITFLUX_INVALID_ARGUMENT for the prompt, or if the model was loaded with `textEncoders: false`
   */
  async encodePrompt(
    prompt: string | string[],
    o: { maxSequenceLength?: number; signal?: AbortSignal } = {},
  ): Promise<EncodedPrompts> {
    this.#assertOpen();
    const prompts = checkPrompts(prompt);
    const { length: most, defaultLength } = this.model.text;
    const length = o.maxSequenceLength ?? defaultLength ?? most;
    if (!Number.isInteger(length) || length < 1 || length > most) {
      throw invalidArgument('maxSequenceLength', `an integer from 1 to ${most}`, length);
    }
    this.#assertTextEncoders();
    const activity = this.#begin(o.signal);
    let release: (() => void) | undefined;
    try {
      release = await this.#lock.acquire(activity.signal);
      return await this.#encode(prompts, length, activity.signal);
    } finally {
      release?.();
      this.#end(activity);
    }
  }

  /** Whether {@link dispose} has been called. */
  get disposed(): boolean {
    return this.#disposing !== undefined;
  }

  /** Aborts what is running or waiting, waits until it has stopped, and frees the model. */
  dispose(): Promise<void> {
    return (this.#disposing ??= this.#shutDown());
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  async #shutDown(): Promise<void> {
    const reason = disposedError();
    const activities = [...this.#activities];
    for (const activity of activities) activity.abort(reason);
    await Promise.all(activities.map((activity) => activity.idle()));
    disposeParts(this.#parts);
  }

  async *#run(r: ResolvedRequest): AsyncGenerator<StepEvent<Tensor>, GenerateResult, undefined> {
    this.#assertOpen();
    const asked = performance.now();
    const activity = this.#begin(r.signal);
    const { signal } = activity;
    let release: (() => void) | undefined;
    try {
      using resources = new Resources();
      release = await this.#lock.acquire(signal);
      const started = performance.now();
      const encoded = r.conditioning ?? resources.add(await this.#encode(r.prompts, r.textTokens, signal));
      const prompt = await this.#perImage(encoded.prompt, r.numImages, resources);
      const pooled = await this.#perImage(encoded.pooled, r.numImages, resources);
      const warnings = [...encoded.warnings];
      if (r.guidanceGiven && !this.config.guidance) {
        warnings.push({
          code: 'GUIDANCE_IGNORED',
          message: `${this.model.name} has no guidance input; guidance ${r.guidance} has no effect`,
        });
      }
      const encodedAt = performance.now();
      const conditioning = resources.add(
        await this.#parts.transformer.condition({
          prompt,
          pooled,
          ...(this.config.guidance && { guidance: r.guidance }),
          sigmas: r.plan.sigmas,
          signal,
        }),
      );
      const conditionedAt = performance.now();
      throwIfAborted(signal);
      const stages: GenerateTimings['stages'] = r.plan.stages.map(({ stage, steps, activeTokens }) => ({
        stage,
        steps,
        activeTokens,
        milliseconds: 0,
      }));
      const latents =
        r.latents === undefined
          ? resources.add(await this.#noise(r))
          : await onDevice(r.latents, this.#device, resources);
      const sampler = resources.add(
        new JitSampler(this.#parts.transformer.bind(conditioning), {
          ...r.sampling,
          grid: r.grid,
          latents,
          seed: r.seed,
          signal,
        }),
      );
      for await (const event of sampler) {
        const stage = stages.find((entry) => entry.stage === event.stage);
        if (stage) stage.milliseconds += event.milliseconds;
        r.onStep?.(event);
        activity.pause();
        yield event;
        activity.resume();
      }
      const sampledAt = performance.now();
      const images = r.output === 'image' ? await this.#decode(r, sampler.latents, signal) : [];
      throwIfAborted(signal);
      const finished = performance.now();
      return {
        images,
        ...(r.output === 'latent' && { latents: sampler.latents.clone() }),
        seed: r.seed,
        plan: r.plan,
        warnings,
        timings: {
          queued: started - asked,
          encode: encodedAt - started,
          condition: conditionedAt - encodedAt,
          stages,
          decode: r.output === 'image' ? finished - sampledAt : 0,
          total: finished - started,
        },
      };
    } finally {
      release?.();
      this.#end(activity);
    }
  }

  /** One row per prompt. */
  async #encode(prompts: readonly string[], length: number, signal: AbortSignal): Promise<EncodedPrompts> {
    this.#assertTextEncoders();
    const conditions = await (this.#parts.text as TextConditioner).encode(prompts, { length, signal });
    checkConditions(conditions, {
      model: this.model.name,
      prompts: prompts.length,
      length,
      widths: this.config,
    });
    return new EncodedPrompts({ ...conditions, prompts, model: this.model.name });
  }

  /** Repeats every row `times` times: from one per prompt to one per picture. */
  async #perImage(rows: Tensor, times: number, resources: Resources): Promise<Tensor> {
    if (times === 1) return rows;
    const values = await rows.toFloat32Array();
    const [count = 0, ...rest] = rows.shape;
    const size = values.length / count;
    const repeated = new Float32Array(values.length * times);
    for (let i = 0; i < count * times; i++) {
      const row = Math.floor(i / times);
      repeated.set(values.subarray(row * size, (row + 1) * size), i * size);
    }
    return resources.add(Tensor.from(repeated, [count * times, ...rest]));
  }

  /**
   * Initial noise, packed. Image b is drawn as [1, C, h, w] from its own seed, as diffusers does with a list of
   * generators, so that it does not depend on the batch.
   */
  async #noise(r: ResolvedRequest): Promise<Tensor> {
    const shape = [r.images, this.model.decoder.channels, r.grid[0] * 2, r.grid[1] * 2];
    using noise = Tensor.randn(shape, { seed: r.seeds, device: this.#device });
    return await latentOps.pack(noise);
  }

  async #decode(r: ResolvedRequest, tokens: Tensor, signal: AbortSignal): Promise<GeneratedImage[]> {
    const pixels = await this.#parts.decoder.decode(tokens, { grid: r.grid, signal });
    const size = r.width * r.height * 3;
    return r.seeds.map((imageSeed, image) => {
      const prompt = r.prompts[Math.floor(image / r.numImages)] ?? '';
      const seed = plainSeed(imageSeed);
      return new GeneratedImage({
        image: { width: r.width, height: r.height, data: pixels.slice(image * size, (image + 1) * size) },
        prompt,
        seed,
        metadata: this.#metadata(r, prompt, seed),
      });
    });
  }

  #metadata(r: ResolvedRequest, prompt: string, seed: number | bigint): PngMetadata {
    return {
      prompt,
      seed: typeof seed === 'bigint' ? seed.toString() : seed,
      preset: r.plan.preset,
      steps: r.plan.steps,
      ...(this.config.guidance && { guidance: r.guidance }),
      model: this.model.name,
      version: VERSION,
    };
  }

  #begin(signal: AbortSignal | undefined): Activity {
    const activity = new Activity(signal);
    this.#activities.add(activity);
    return activity;
  }

  #end(activity: Activity): void {
    this.#activities.delete(activity);
    activity.end();
  }

  #assertOpen(): void {
    if (this.disposed) throw disposedError();
  }

  #assertTextEncoders(): void {
    if (this.#parts.text) return;
    throw invalidArgument(
      'prompt',
      `a "conditioning" instead: ${this.model.name} was loaded with textEncoders: false`,
      'a prompt',
    );
  }
}

function disposeParts(parts: Partial<Parts>): void {
  parts.decoder?.dispose();
  parts.text?.dispose();
  parts.transformer?.dispose();
}

function disposedError(): JitFluxError {
  return new JitFluxError(ERROR_CODES.DISPOSED, 'The pipeline has been disposed');
}
