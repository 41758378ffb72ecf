/** Prompt to picture: text conditioner, transformer, sampler, decoder. */
import { publishStep, traceLoad } from '../diagnostics.js';
import { onAbort } from '../abort.js';
import {
  checkCallback,
  checkConstruction,
  checkInteger,
  type Names,
  OURS,
  readFields,
  readOptions,
} from '../arguments.js';
import { settled } from '../callbacks.js';
import { abortedError, ERROR_CODES, invalidArgument, JitFluxError, throwIfAborted } from '../errors.js';
import { log } from '../logging.js';
import {
  computeDType,
  FluxTransformer,
  LOAD_OPTIONS,
  memoryReport,
  type MemoryReport,
  Tensor,
} from '../engine/index.js';
import { readGrid } from '../sampler/stages.js';
import type { FluxConfig, Grid, StepEvent } from '../types.js';
import { Activity } from './activity.js';
import { batchKey } from './batching.js';
import { checkLoadOptions } from '../model/component-options.js';
import { blankPrompts, type EncodedPrompts, requireFinite } from './encoded-prompts.js';
import {
  checkGivenTensors,
  encodePrompts,
  eventOfImages,
  type ModelParts,
  noTextEncoders,
  runGeneration,
} from './generation.js';
import { type DecodedImage, decodedImageOf } from './image.js';
import { loadLatentDecoder } from './latent-decoder.js';
import { checkMemory, memoryAvailableTo, type MemoryPlan, planModelMemory } from '../model/memory-plan.js';
import { modelFingerprint } from '../model/fingerprint.js';
import { pixelsPerToken } from '../model/size.js';
import { checkChannels, checkTextWidths, describeModel, requireFiles } from '../model/resolve-model.js';
import { doubts, type ModelInfo, type ModelSpec } from '../model/spec.js';
import { OpenRequest } from './open-request.js';
import { queueOptions } from './queue-options.js';
import { resolveSize, resolveTextLength } from '../model/run.js';
import { checkLatents, checkPrompts, type ResolvedRequest, resolveRequest } from './request.js';
import { Resources } from './resources.js';
import { type QueueOptions, RequestQueue, type Reservation, type Turn } from './request-queue.js';
import { ReservedSteps } from './reserved-steps.js';
import { type PipelineStats, PipelineStatistics } from './statistics.js';
import { loadTextConditioner } from './text-conditioner.js';
import type {
  DecodeRequest,
  GenerateRequest,
  GenerateResult,
  PipelineOptions,
  WarmUpOptions,
} from './types.js';

/** Side of the picture that {@link FluxPipeline.warmUp} draws, where the model's own is not smaller. */
const WARM_UP_PIXELS = 256;

/**
 * A model directory, loaded and ready to generate. Requests are served in the order in which they were made, one at a
 * time unless `concurrency` or `dynamicBatching` say otherwise; two pipelines run independently.
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

  readonly #parts: ModelParts;
  readonly #plan: MemoryPlan | undefined;
  readonly #queue: RequestQueue<OpenRequest>;
  readonly #maxBatchImages: number | undefined;
  readonly #statistics = new PipelineStatistics();
  readonly #requests = new Set<OpenRequest>();
  readonly #activities = new Set<Activity>();
  #disposing: Promise<void> | undefined;

  private constructor(
    key: typeof OURS,
    parts: ModelParts,
    plan: MemoryPlan | undefined,
    queue: Required<QueueOptions>,
  ) {
    checkConstruction(key, new.target.name, 'FluxPipeline.load');
    this.model = parts.info;
    this.config = parts.transformer.config;
    this.#parts = parts;
    this.#plan = plan;
    this.#queue = new RequestQueue(queue);
    this.#maxBatchImages = queue.batching?.maxImages;
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
  static async load(model: string | ModelSpec, o: PipelineOptions = {}): Promise<FluxPipeline> {
    return traceLoad({ model: nameOf(model) }, () => FluxPipeline.#load(model, o));
  }

  static async #load(model: string | ModelSpec, given: PipelineOptions): Promise<FluxPipeline> {
    const { concurrency, maxQueue, dynamicBatching, ...o } = readOptions(given, PIPELINE_OPTIONS);
    const { signal, device = 'cpu' } = o;
    checkLoadOptions(o);
    const queue = queueOptions({ concurrency, maxQueue, dynamicBatching });
    const request = readMemoryCheck(o.memoryCheck);
    const started = performance.now();
    const { textEncoders, variant } = o;
    const source = requireFiles(await describeModel(model, { textEncoders, variant, signal }));
    for (const doubt of doubts(source)) log('warn', `${source.info.name}: ${doubt}`, { path: source.path });
    let plan: MemoryPlan | undefined;
    if (request !== undefined) {
      const images = Math.max(request.images ?? 1, queue.batching?.maxImages ?? 1);
      plan = planModelMemory(source, { ...o, ...request, images }, await memoryAvailableTo(o));
      checkMemory(plan);
    }
    const loaded = {
      device,
      dtype: computeDType(o),
      ...(o.quantize && { quantize: o.quantize }),
      ...(o.quantizeTextEncoders && { quantizeTextEncoders: o.quantizeTextEncoders }),
      ...(o.timeEmbedding && { timeEmbedding: o.timeEmbedding }),
      ...(o.textEncoderDevice && { textEncoderDevice: o.textEncoderDevice }),
      ...(o.decoderDevice && { decoderDevice: o.decoderDevice }),
      ...(o.threads && { threads: o.threads }),
      fingerprint: modelFingerprint(source),
    };
    const parts: Partial<ModelParts> = { info: source.info, doubts: doubts(source), device, loaded };
    try {
      // Small files first: a bad tokenizer or encoder is found before the transformer is read.
      if (source.text) parts.text = await loadTextConditioner(source, o);
      const { ropeAxes, weights } = source.transformer;
      parts.transformer = await FluxTransformer.load(weights.path, {
        ...o,
        ...(plan && { blockWeights: plan.blockWeights }),
        ...(ropeAxes && { ropeAxes }),
      });
      const { config } = parts.transformer;
      if (source.text?.kind === 'native') checkTextWidths(config, source.text);
      checkChannels(config, source.info.decoder.channels, weights.path, source.decoder.weights.path);
      parts.decoder = await loadLatentDecoder(source, o);
      throwIfAborted(signal);
      const milliseconds = performance.now() - started;
      log('info', `loaded ${source.info.name} in ${(milliseconds / 1000).toFixed(1)} s`, {
        model: source.info.name,
        path: source.path,
        device,
        milliseconds,
      });
      return new FluxPipeline(OURS, parts as ModelParts, plan, queue);
    } catch (error) {
      disposeParts(parts);
      throw error;
    }
  }

  /**
   * Generates pictures. The whole request is checked first; a bad one is refused before anything runs.
   * @throws ERR_JITFLUX_INVALID_ARGUMENT and its kin for the request, ERR_JITFLUX_QUEUE_FULL, ERR_JITFLUX_ABORTED,
   *   ERR_JITFLUX_DISPOSED, ERR_JITFLUX_NOT_FINITE rather than a black picture
   */
  async generate(request: GenerateRequest): Promise<GenerateResult> {
    const resolved = this.#resolve(request);
    const key = this.#maxBatchImages === undefined ? undefined : batchKey(resolved);
    if (key !== undefined) return this.#runTogether(resolved, key);
    const run = this.#runAlone(resolved, (signal) => this.#queue.acquire(signal));
    for (;;) {
      const next = await run.next();
      if (next.done) return next.value;
    }
  }

  /**
   * Generates pictures step by step: yields after every sampling step and returns what {@link generate} returns. It holds
   * its turn until the iteration is over; leave a `for await` by `break`, or call `return()`. The turn is taken with the
   * first `next()`; room in the queue is kept from the call on.
   * @throws at the call, for a bad request and ERR_JITFLUX_QUEUE_FULL
   */
  steps(request: GenerateRequest): AsyncGenerator<StepEvent<Tensor>, GenerateResult, undefined> {
    const resolved = this.#resolve(request);
    let room: Reservation;
    try {
      room = this.#queue.reserve();
    } catch (error) {
      const open = this.#open(resolved);
      open.fail(error);
      this.#close([open]);
      throw error;
    }
    return new ReservedSteps(
      this.#runAlone(resolved, (signal) => room.acquire(signal)),
      room,
    );
  }

  /**
   * Runs tokenizers and text encoders, in turn with the other requests of this pipeline. The result can be used in any
   * number of requests (`conditioning`), saved, and loaded elsewhere; the caller disposes it.
   * @param o.maxSequenceLength number of text tokens, at most the model's
   * @throws ERR_JITFLUX_INVALID_ARGUMENT for the prompt, or if the model was loaded with `textEncoders: false`;
   *   ERR_JITFLUX_NOT_FINITE; ERR_JITFLUX_QUEUE_FULL
   */
  async encodePrompt(
    prompt: string | string[],
    o: { maxSequenceLength?: number | undefined; signal?: AbortSignal | undefined } = {},
  ): Promise<EncodedPrompts> {
    this.#assertOpen();
    const prompts = checkPrompts(prompt);
    const { maxSequenceLength, signal } = readOptions(o, { maxSequenceLength: true, signal: true });
    // A getter may have disposed it.
    this.#assertOpen();
    const length = resolveTextLength(maxSequenceLength, this.model);
    this.#assertTextEncoders();
    return this.#inTurn(signal, async (ours) =>
      requireFinite(await encodePrompts(this.#parts, prompts, { length, signal: ours })),
    );
  }

  /**
   * Pictures of latents: of `output: 'latent'`, of a sampler of your own, or of a step's event, of which the clean estimate
   * is decoded, the picture that the run is heading for:
   * `onStep: async (event) => show(await pipeline.decode(event))`.
   * It takes no turn in the queue and runs between the steps of whatever is at work, so that it may be awaited in `onStep`.
   * @param from packed latents [images, tokens, channels] float32, or an event
   * @returns one picture per image; their files say nothing of how they were made
   * @throws (rejects) ERR_JITFLUX_INVALID_TENSOR for latents of another size, ERR_JITFLUX_NOT_FINITE, ERR_JITFLUX_DISPOSED,
   *   ERR_JITFLUX_ABORTED
   */
  async decode(
    from: Tensor | { clean: () => Promise<Tensor>; grid: Grid },
    o: DecodeRequest = {},
  ): Promise<DecodedImage[]> {
    this.#assertOpen();
    const { signal, width, height } = readOptions(o, { width: true, height: true, signal: true });
    const event = Tensor.owns(from) ? undefined : readStepEvent(from);
    if (event && (width ?? height) !== undefined) {
      throw invalidArgument('width', 'no size beside an event, which has its own', width ?? height);
    }
    // A getter may have disposed it.
    this.#assertOpen();
    const size = event ? sizeOf(event.grid, this.model) : resolveSize({ width, height }, this.model);
    return this.#active(signal, async (ours) => {
      throwIfAborted(ours);
      using resources = new Resources();
      const tokens = event ? resources.add(await event.clean()) : (from as Tensor);
      const [rows, cols] = size.grid;
      checkLatents(tokens, [undefined, rows * cols, this.model.decoder.channels * 4]);
      const pixels = await this.#parts.decoder.decode(tokens, { grid: size.grid, signal: ours });
      throwIfAborted(ours);
      const images = tokens.shape[0]!;
      const bytes = pixels.length / images;
      return Array.from({ length: images }, (_, image) => {
        const data = pixels.slice(image * bytes, (image + 1) * bytes);
        return decodedImageOf({ width: size.width, height: size.height, data });
      });
    });
  }

  /**
   * Does what the first request would pay for, in turn with the requests of this pipeline: prepares the transformer's
   * weights, then draws a picture of one step and at most 256 pixels a side, which reads the weights of text encoders and
   * decoder and has LibTorch make code for this machine, and drops it. It is not counted in {@link stats}. May be called
   * at any time, and again: weights are prepared once, the picture is drawn every time.
   * @throws what `FluxTransformer.prepare` throws, ERR_JITFLUX_QUEUE_FULL, ERR_JITFLUX_ABORTED, ERR_JITFLUX_DISPOSED
   */
  async warmUp(o: WarmUpOptions = {}): Promise<void> {
    this.#assertOpen();
    const { signal, onProgress } = readOptions(o, { signal: true, onProgress: true });
    checkCallback('onProgress', onProgress);
    // A getter may have disposed it.
    this.#assertOpen();
    await this.#inTurn(signal, async (ours) => {
      await this.#parts.transformer.prepare({ signal: ours, ...(onProgress && { onProgress }) });
      using blank = this.#parts.text ? undefined : blankPrompts(this.model.name, this.config);
      const unit = pixelsPerToken(this.model);
      const { width, height } = this.model.defaults;
      const side = Math.min(width, height, Math.max(unit, WARM_UP_PIXELS - (WARM_UP_PIXELS % unit)));
      const request = resolveRequest(
        {
          ...(blank ? { conditioning: blank } : { prompt: 'a picture' }),
          ...{ width: side, height: side, preset: 'dense', steps: 1, seed: 0 },
        },
        this.model,
        this.config,
      );
      const run = runGeneration(this.#parts, [request], ours);
      while (!(await run.next()).done);
    });
  }

  /** What this pipeline has done so far, and what it is doing now. */
  stats(): PipelineStats {
    const { concurrency, maxQueue, waiting } = this.#queue;
    return this.#statistics.snapshot({
      limits: { concurrency, maxQueue, maxBatchImages: this.#maxBatchImages ?? 1 },
      running: [...this.#requests].filter(({ isRunning }) => isRunning).length,
      waiting,
    });
  }

  /** The memory that is in use now, beside what was planned when the model was loaded. */
  async memory(): Promise<MemoryReport & { plan?: MemoryPlan }> {
    this.#assertOpen();
    return { ...(await memoryReport()), ...(this.#plan && { plan: this.#plan }) };
  }

  /** Whether {@link dispose} has been called. */
  get disposed(): boolean {
    return this.#disposing !== undefined;
  }

  /**
   * Aborts what is running or waiting (it rejects with ERR_JITFLUX_ABORTED, whose cause is an ERR_JITFLUX_DISPOSED), waits
   * until it has stopped, and frees the model.
   */
  dispose(): Promise<void> {
    return (this.#disposing ??= this.#shutDown());
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  /** Work that is no generation, in its turn, until it is over, aborted, or the pipeline is disposed. */
  async #inTurn<R>(signal: AbortSignal | undefined, work: (signal: AbortSignal) => Promise<R>): Promise<R> {
    return this.#active(signal, async (ours) => {
      const release = await this.#queue.acquire(ours);
      try {
        return await work(ours);
      } finally {
        release();
      }
    });
  }

  /** Work for whose end a disposal waits, and which it aborts. */
  async #active<R>(signal: AbortSignal | undefined, work: (signal: AbortSignal) => Promise<R>): Promise<R> {
    const activity = new Activity(signal);
    this.#activities.add(activity);
    try {
      return await work(activity.signal);
    } finally {
      this.#activities.delete(activity);
      activity.end();
    }
  }

  async #shutDown(): Promise<void> {
    const reason = disposedError();
    const activities = [...this.#activities];
    for (const activity of activities) activity.abort(reason);
    await Promise.all(activities.map((activity) => activity.idle()));
    disposeParts(this.#parts);
  }

  #resolve(request: GenerateRequest): ResolvedRequest {
    this.#assertOpen();
    // Looks into the caller's objects, which may dispose the pipeline: #open asserts again.
    const resolved = resolveRequest(request, this.model, this.config);
    const { conditioning, latents } = resolved;
    if (!conditioning) this.#assertTextEncoders();
    else for (const part of ['prompt', 'pooled'] as const) assertTensor(conditioning[part], 'conditioning');
    if (latents) assertTensor(latents, 'latents');
    return resolved;
  }

  async *#runAlone(
    r: ResolvedRequest,
    takeTurn: (signal: AbortSignal) => Promise<() => void>,
  ): AsyncGenerator<StepEvent<Tensor>, GenerateResult, undefined> {
    const open = this.#open(r);
    const { activity, signal } = open;
    let release: (() => void) | undefined;
    try {
      release = await takeTurn(signal);
      open.start();
      await checkGivenTensors(r);
      const run = this.#generation([open], signal);
      try {
        for (;;) {
          const next = await run.next();
          if (next.done) return open.complete(next.value[0]!);
          const returned: unknown = r.onStep?.(next.value);
          activity.pause();
          await settled(returned, signal);
          yield next.value;
          activity.resume();
        }
      } finally {
        // Left early, it frees what it holds.
        await run.return([]);
      }
    } catch (error) {
      open.fail(error);
      throw error;
    } finally {
      release?.();
      this.#close([open]);
    }
  }

  async #runTogether(r: ResolvedRequest, key: string): Promise<GenerateResult> {
    const open = this.#open(r);
    let turn: Turn<OpenRequest> | undefined;
    try {
      turn = await this.#queue.join(open, { key, images: r.images, signal: open.signal });
    } catch (error) {
      open.fail(error);
      this.#close([open]);
      throw error;
    }
    // Not awaited: whoever is aborted need not stay until the others are served.
    if (turn) void this.#runBatch(turn);
    return open.outcome;
  }

  /** Serves all members; a member that is aborted, or whose callback fails, leaves the others to go on. */
  async #runBatch(turn: Turn<OpenRequest>): Promise<void> {
    let { members } = turn;
    const ends: (() => void)[] = [];
    const batch = new AbortController();
    const leave = () => {
      for (const member of members) if (member.signal.aborted) member.fail(abortedError(member.signal));
      if (members.every(({ ended }) => ended)) batch.abort();
    };
    try {
      for (const member of members) {
        member.start();
        ends.push(onAbort(member.signal, leave));
      }
      await Promise.all(
        turn.members.map((member) =>
          checkGivenTensors(member.request).catch((error: unknown) => member.fail(error)),
        ),
      );
      // A bad one does not spoil the others'.
      members = turn.members.filter(({ ended }) => !ended);
      leave();
      if (members.length === 0) return;
      const run = this.#generation(members, batch.signal);
      const views = new Map<OpenRequest, Tensor>();
      try {
        for (;;) {
          const next = await run.next();
          if (next.done) {
            members.forEach((member, i) => member.complete(next.value[i]!));
            return;
          }
          await this.#tell(members, next.value, views);
          leave();
        }
      } finally {
        for (const view of views.values()) view.dispose();
        await run.return([]);
      }
    } catch (error) {
      for (const member of members) member.fail(error);
    } finally {
      for (const end of ends) end();
      turn.release();
      this.#close(turn.members);
    }
  }

  /**
   * Gives every member that wants it its part of a step's event, and waits for those that are asynchronous.
   * @param views their latents, made when first needed
   */
  async #tell(
    members: readonly OpenRequest[],
    event: StepEvent<Tensor>,
    views: Map<OpenRequest, Tensor>,
  ): Promise<void> {
    const waiting: Promise<void>[] = [];
    const batch = members.reduce((sum, { request }) => sum + request.images, 0);
    let first = 0;
    for (const member of members) {
      const { onStep, images: count } = member.request;
      if (onStep && !member.ended) {
        const latents = views.get(member) ?? event.latents.images(first, count);
        views.set(member, latents);
        try {
          const returned: unknown = onStep(eventOfImages(event, { first, count, batch, latents }));
          waiting.push(settled(returned, member.signal).catch((error: unknown) => member.fail(error)));
        } catch (error) {
          member.fail(error);
        }
      }
      first += count;
    }
    await Promise.all(waiting);
  }

  /** The run of some requests, counted and published. */
  async *#generation(members: readonly OpenRequest[], signal: AbortSignal): ReturnType<typeof runGeneration> {
    this.#statistics.runs++;
    const requests = members.map(({ request }) => request);
    const run = runGeneration(this.#parts, requests, signal);
    try {
      for (;;) {
        const next = await run.next();
        if (next.done) return next.value;
        this.#statistics.steps++;
        publishStep(() => {
          const { step, steps, stage, sigma, activeTokens, totalTokens, milliseconds } = next.value;
          return {
            requests: members.map(({ trace }) => trace),
            ...{ step, steps, stage, sigma, activeTokens, totalTokens, milliseconds },
          };
        });
        yield next.value;
      }
    } finally {
      await run.return([]);
    }
  }

  #open(request: ResolvedRequest): OpenRequest {
    this.#assertOpen();
    const open = new OpenRequest(request, { model: this.model.name, statistics: this.#statistics });
    this.#requests.add(open);
    this.#activities.add(open.activity);
    return open;
  }

  #close(requests: readonly OpenRequest[]): void {
    for (const open of requests) {
      // Left before its end.
      open.fail(abortedError(open.signal));
      this.#requests.delete(open);
      this.#activities.delete(open.activity);
      open.activity.end();
    }
  }

  #assertOpen(): void {
    if (this.disposed) throw disposedError();
  }

  #assertTextEncoders(): void {
    if (!this.#parts.text) throw noTextEncoders(this.model);
  }
}

const PIPELINE_OPTIONS: Names<PipelineOptions> = {
  ...LOAD_OPTIONS,
  concurrency: true,
  maxQueue: true,
  dynamicBatching: true,
};

/** A model's name for traces: whether it is one at all shows later. */
function nameOf(model: unknown): string {
  if (typeof model === 'string') return model;
  try {
    const { path, info } = model as ModelSpec;
    return String(path ?? info.name);
  } catch {
    return '(no model)';
  }
}

/** What `decode` needs of a step's event. @throws ERR_JITFLUX_INVALID_ARGUMENT */
function readStepEvent(given: { clean: () => Promise<Tensor>; grid: Grid }) {
  const expected = "latents (a Tensor) or a step's event";
  const { clean, grid } = readFields(given, 'from', { clean: true, grid: true }, expected);
  if (typeof clean !== 'function') throw invalidArgument('from', expected, given);
  const own = async (): Promise<Tensor> => {
    const latents: Tensor = await Reflect.apply(clean, given, []);
    assertTensor(latents, 'from.clean()');
    return latents;
  };
  return { clean: own, grid: readGrid(grid, 'from.grid') };
}

/** Size of the pictures of a grid. */
function sizeOf([rows, cols]: Grid, model: ModelInfo): ReturnType<typeof resolveSize> {
  const unit = pixelsPerToken(model);
  return resolveSize({ width: cols * unit, height: rows * unit }, model);
}

/** @throws ERR_JITFLUX_INVALID_ARGUMENT for what only looks like a tensor */
function assertTensor(value: Tensor, option: string): void {
  if (!Tensor.owns(value)) throw invalidArgument(option, 'Tensors of this package', value);
}

type MemoryCheckRequest = Exclude<PipelineOptions['memoryCheck'], boolean | undefined>;

/** What memory to plan for; undefined for no check. */
function readMemoryCheck(given: PipelineOptions['memoryCheck'] = true): MemoryCheckRequest | undefined {
  if (typeof given === 'boolean') return given ? {} : undefined;
  const option = 'memoryCheck';
  const names = { width: true, height: true, images: true, textTokens: true, steps: true } as const;
  const request = readFields<MemoryCheckRequest>(given, option, names, 'true, false or the largest request');
  for (const [name, value] of Object.entries(request)) {
    checkInteger(`${option}.${name}`, value, 1, Number.MAX_SAFE_INTEGER);
  }
  return request;
}

function disposeParts(parts: Partial<ModelParts>): void {
  parts.decoder?.dispose();
  parts.text?.dispose();
  parts.transformer?.dispose();
}

function disposedError(): JitFluxError {
  return new JitFluxError(ERROR_CODES.DISPOSED, 'The pipeline has been disposed');
}
