/** Prompt to picture: tokenizer, text encoder, transformer, sampler, decoder. */
import { ERROR_CODES, invalidArgument, JitFluxError, throwIfAborted } from '../errors.js';
import type { PngMetadata } from '../image/index.js';
import { FluxTransformer, JitSampler, latentOps, Tensor, TorchScriptModule } from '../runtime/index.js';
import { Tokenizer } from '../text/index.js';
import type { Device, FluxConfig, LoadOptions, StepEvent } from '../types.js';
import { Activity } from './activity.js';
import { FairLock } from './fair-lock.js';
import { GeneratedImage } from './image.js';
import { type ModelDirectory, type ModelIndex, readModelDirectory } from './model-directory.js';
import { checkPrompts, plainSeed, type ResolvedRequest, resolveRequest } from './request.js';
import type { GenerateRequest, GenerateResult, GenerateTimings, GenerateWarning } from './types.js';
import { VERSION } from './version.js';

/** Prompts as the transformer takes them. The caller disposes both tensors. */
export interface EncodedPrompts {
  /** [prompts, tokens, width] */
  prompt: Tensor;
  /** [prompts, width] */
  pooled: Tensor;
  /** Truncation and unknown words. */
  warnings: GenerateWarning[];
}

/** The loaded parts of a model. */
interface Parts {
  tokenizer: Tokenizer;
  textEncoder: TorchScriptModule;
  transformer: FluxTransformer;
  decoder: TorchScriptModule;
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
  /** Description of the loaded model. */
  readonly model: ModelIndex;
  /** Architecture of the transformer, inferred from its weights. */
  readonly config: FluxConfig;

  readonly #parts: Parts;
  readonly #device: Device;
  readonly #lock = new FairLock();
  readonly #activities = new Set<Activity>();
  #disposing: Promise<void> | undefined;

  private constructor(model: ModelIndex, parts: Parts, device: Device) {
    this.model = model;
    this.config = parts.transformer.config;
    this.#parts = parts;
    this.#device = device;
  }

  /**
   * Loads a model directory: `model_index.json` and the files it names.
   * @throws ERR_JITFLUX_FILE_NOT_FOUND or ERR_JITFLUX_INVALID_MODEL for the directory, what
   *   `FluxTransformer.load` throws for the weights, and ERR_JITFLUX_CODE_NOT_ALLOWED for TorchScript text encoders
   *   and decoders other than the bundled model's without `allowTorchScriptCode`
   */
  static async load(modelDirectory: string, o: LoadOptions = {}): Promise<FluxPipeline> {
    if (typeof modelDirectory !== 'string' || modelDirectory === '') {
      throw invalidArgument('modelDirectory', 'the path of a model directory', modelDirectory);
    }
    const { signal, device = 'cpu' } = o;
    const directory = await readModelDirectory(modelDirectory, { signal });
    const { index, files } = directory;
    const parts: Partial<Parts> = {};
    try {
      parts.tokenizer = await Tokenizer.load(files.tokenizer, { signal });
      if (parts.tokenizer.specialTokens > index.text.length) {
        throw invalidModel(directory, 'text.length', `is less than the tokenizer's special tokens`);
      }
      const { ropeAxes } = index.transformer;
      parts.transformer = await FluxTransformer.load(files.transformer, {
        ...o,
        ...(ropeAxes && { ropeAxes }),
      });
      const { inChannels, outChannels } = parts.transformer.config;
      const packed = index.decoder.channels * 4;
      if (inChannels !== packed || outChannels !== packed) {
        const found = `the transformer has ${inChannels} input and ${outChannels} output channels`;
        throw invalidModel(
          directory,
          'decoder.channels',
          `${index.decoder.channels} x 4 expected, but ${found}`,
        );
      }
      const code = {
        device,
        ...(o.allowTorchScriptCode !== undefined && { allowTorchScriptCode: o.allowTorchScriptCode }),
        ...(signal && { signal }),
      };
      parts.textEncoder = await TorchScriptModule.load(files.textEncoder, code);
      parts.decoder = await TorchScriptModule.load(files.decoder, code);
      throwIfAborted(signal);
      return new FluxPipeline(index, parts as Parts, device);
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
    return this.#run(resolveRequest(request, this.model, this.config));
  }

  /**
   * Runs tokenizer and text encoder.
   * @param o.maxSequenceLength number of text tokens, at most the model's
   */
  async encodePrompt(
    prompt: string | string[],
    o: { maxSequenceLength?: number; signal?: AbortSignal } = {},
  ): Promise<EncodedPrompts> {
    this.#assertOpen();
    const prompts = checkPrompts(prompt);
    const most = this.model.text.length;
    const length = o.maxSequenceLength ?? most;
    if (!Number.isInteger(length) || length < 1 || length > most) {
      throw invalidArgument('maxSequenceLength', `an integer from 1 to ${most}`, length);
    }
    const activity = this.#begin(o.signal);
    try {
      return await this.#encode(prompts, length, activity.signal);
    } finally {
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
      const encoded = await this.#encode(r.prompts, r.textTokens, signal);
      const prompt = await this.#perImage(resources.add(encoded.prompt), r.numImages, resources);
      const pooled = await this.#perImage(resources.add(encoded.pooled), r.numImages, resources);
      const { warnings } = encoded;
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
      const latents = r.latents ?? resources.add(await this.#noise(r));
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

  /** Token ids, then the text encoder; one row per prompt. */
  async #encode(prompts: string[], length: number, signal: AbortSignal): Promise<EncodedPrompts> {
    const { tokenizer, textEncoder } = this.#parts;
    if (length < tokenizer.specialTokens) {
      throw invalidArgument('maxSequenceLength', `at least ${tokenizer.specialTokens}`, length);
    }
    const ids = new BigInt64Array(prompts.length * length);
    const warnings: GenerateWarning[] = [];
    prompts.forEach((text, row) => {
      const encoded = tokenizer.encode(text, length);
      encoded.ids.forEach((id, column) => (ids[row * length + column] = BigInt(id)));
      if (encoded.truncated > 0) warnings.push(truncationWarning(row, length, encoded.truncated));
      if (encoded.unknown.length > 0) warnings.push(this.#vocabularyWarning(row, encoded.unknown));
    });
    throwIfAborted(signal);
    using resources = new Resources();
    const input = resources.add(Tensor.from(ids, [prompts.length, length], { device: this.#device }));
    const outputs = await textEncoder.run([input], { signal });
    const [pooled, prompt] = outputs;
    const fits =
      outputs.length === 2 &&
      sameShape(pooled?.shape, [prompts.length, this.config.pooledDim]) &&
      sameShape(prompt?.shape, [prompts.length, length, this.config.textDim]);
    if (!fits || signal.aborted) {
      for (const output of outputs) output.dispose();
      throwIfAborted(signal);
      const shapes = outputs.map((output) => `[${output.shape.join(', ')}]`).join(' and ');
      const { pooledDim, textDim } = this.config;
      throw new JitFluxError(
        ERROR_CODES.INVALID_MODEL,
        `The text encoder of ${this.model.name} returned ${shapes || 'nothing'}; the transformer needs ` +
          `[${prompts.length}, ${pooledDim}] and [${prompts.length}, ${length}, ${textDim}]`,
      );
    }
    return { prompt: prompt as Tensor, pooled: pooled as Tensor, warnings };
  }

  #vocabularyWarning(prompt: number, words: string[]): GenerateWarning {
    const list = words.map((word) => JSON.stringify(word)).join(', ');
    return {
      code: 'UNKNOWN_WORDS',
      message: `Not in the vocabulary of ${this.model.name}: ${list}`,
      prompt,
      words,
    };
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
    return resources.add(Tensor.from(repeated, [count * times, ...rest], { device: this.#device }));
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
    const { scalingFactor: scale, shiftFactor: shift } = this.model.decoder;
    using resources = new Resources();
    const z = resources.add(await latentOps.unpack(tokens, r.grid, { scale, shift }));
    throwIfAborted(signal);
    const outputs = (await this.#parts.decoder.run([z], { signal })).map((output) => resources.add(output));
    const [picture] = outputs;
    if (!picture || !sameShape(picture.shape, [r.images, 3, r.height, r.width])) {
      throw new JitFluxError(
        ERROR_CODES.INVALID_MODEL,
        `The decoder of ${this.model.name} returned [${picture?.shape.join(', ')}] instead of ` +
          `[${r.images}, 3, ${r.height}, ${r.width}]`,
      );
    }
    const pixels = await latentOps.toImage(picture);
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
}

/** Frees native handles at the end of a block, last one first. */
class Resources {
  readonly #list: { dispose(): void }[] = [];

  add<T extends { dispose(): void }>(resource: T): T {
    this.#list.push(resource);
    return resource;
  }

  [Symbol.dispose](): void {
    for (const resource of this.#list.splice(0).reverse()) resource.dispose();
  }
}

function disposeParts(parts: Partial<Parts>): void {
  parts.decoder?.dispose();
  parts.textEncoder?.dispose();
  parts.transformer?.dispose();
}

function sameShape(shape: readonly number[] | undefined, expected: readonly number[]): boolean {
  return shape?.length === expected.length && shape.every((size, axis) => size === expected[axis]);
}

function truncationWarning(prompt: number, length: number, truncated: number): GenerateWarning {
  const what = truncated === 1 ? 'token was' : 'tokens were';
  return {
    code: 'PROMPT_TRUNCATED',
    message: `The prompt is longer than ${length} tokens; its last ${truncated} ${what} ignored`,
    prompt,
    truncated,
  };
}

function invalidModel(directory: ModelDirectory, field: string, problem: string): JitFluxError {
  return new JitFluxError(ERROR_CODES.INVALID_MODEL, `${directory.path}: ${field}: ${problem}`, {
    path: directory.path,
    field,
  });
}

function disposedError(): JitFluxError {
  return new JitFluxError(ERROR_CODES.DISPOSED, 'The pipeline has been disposed');
}
