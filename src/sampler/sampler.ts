/**
 * The sampling loop: SAG-ODE steps on the active tokens, and at stage transitions the importance-guided activation
 * (ITA) and the deterministic micro-flow (DMF). It decides what happens when; a backend's operators, or a model that can
 * `advance`, do the arithmetic.
 */

import { copyOf, isArray, type Names, readFields, readOptions, reading, readList } from '../arguments.js';
import {
  ERROR_CODES,
  JitFluxError,
  abortedError,
  invalidArgument,
  isError,
  isJitFluxError,
  throwIfAborted,
} from '../errors.js';
import type {
  Grid,
  JitOperators,
  JitPlan,
  Lifter,
  SampleOptions,
  StagePlan,
  StepEvent,
  TensorLike,
  VelocityModel,
} from '../types.js';
import {
  activateAll,
  activateByImportance,
  activateOnGrid,
  concat,
  newcomers,
  readAnchors,
  selectInitialAnchors,
} from './anchors.js';
import { JIT_OPTIONS, resolveOptions, type ResolvedOptions } from './options.js';
import { planFor } from './plan.js';
import { stepEvent } from './step-event.js';
import { Random, imageSeeds, normalizeSeed, readSeeds, subSeed } from './random.js';

/** What the sampler needs of a tensor library. */
export interface SamplerBackend<T extends TensorLike = TensorLike> {
  readonly operators: JitOperators<T>;
  /**
   * Standard normal float32 noise of the given shape [B, ...]. Image b is drawn on its own, as a tensor
   * [1, ...] from `seeds[b]`, so that it does not depend on the rest of the batch.
   */
  randn(shape: number[], seeds: readonly bigint[]): T | Promise<T>;
}

/** Token lists of a batch, in the form that operators take. */
interface TokenLists {
  /** [M] if all images agree, else [B*M]. */
  list: Int32Array;
  perImage: boolean;
}

const SAMPLE_OPTIONS: Names<SampleOptions> = {
  ...JIT_OPTIONS,
  grid: true,
  latents: true,
  microFlowNoise: true,
  seed: true,
  signal: true,
};

type Phase = 'new' | 'working' | 'suspended' | 'finished' | 'disposed';

/**
 * Generates latents step by step; iterate it once with `for await`. Every iteration performs one step and yields a
 * {@link StepEvent}; nothing runs while the consumer holds an event.
 *
 * At the first step of a denser stage, before the model is evaluated: the activation policy extends the active set;
 * the clean latent is predicted from the current state and the last velocity, x0 = y - sigma v; it is interpolated
 * from the old anchors, brought to the current noise level with the fixed micro-flow noise, and the new tokens flow to
 * that target. Then, as in every step: y += (sigma' - sigma) Lift(v(anchors)). In a stage with all tokens the model
 * gets them in natural order, without an anchor list.
 *
 * Batches: every image has its own anchors. Image b behaves as a single run with its seed (seed + b, unless a list was
 * given).
 *
 * Ownership: the caller's tensors are neither modified nor disposed; the caller must keep `microFlowNoise` alive
 * while iterating. Intermediate tensors are disposed when a run ends in whatever way: completion, error, abort,
 * `break`. {@link latents} outlives the run and belongs to the caller, who disposes it, or the sampler.
 *
 * Errors: invalid options throw from the constructor (ERR_JITFLUX_INVALID_ARGUMENT, ERR_JITFLUX_INVALID_ANCHORS,
 * ERR_JITFLUX_INVALID_TENSOR, ERR_JITFLUX_UNKNOWN_PRESET, ERR_JITFLUX_DISPOSED). Iterating rejects with
 * ERR_JITFLUX_ABORTED once the signal has fired, ERR_JITFLUX_INVALID_ANCHORS for a bad result of a custom policy,
 * ERR_JITFLUX_INVALID_TENSOR for one of the model; errors thrown by model, policy and operators pass through.
 */
export class SamplerCore<T extends TensorLike = TensorLike>
  implements AsyncIterable<StepEvent<T>>, Disposable
{
  /** What the run does: noise levels, stages, token counts. */
  readonly plan: JitPlan;

  readonly #model: VelocityModel<T>;
  readonly #backend: SamplerBackend<T>;
  readonly #settings: ResolvedOptions;
  readonly #grid: Grid;
  readonly #batch: number;
  readonly #channels: number;
  readonly #seeds: readonly bigint[];
  readonly #signal: AbortSignal | undefined;
  readonly #givenNoise: T | undefined;
  readonly #latents: T;
  /** Intermediate tensors that are alive. */
  readonly #held = new Set<T>();
  #phase: Phase = 'new';

  /** Active tokens of each image, in activation order. */
  #anchors: Int32Array[] = [];
  /** Full velocity [B, N, C] of the last step, kept for its event and for a transition. */
  #velocity: T | undefined;
  /** Clean estimates that consumers have asked for and that are being computed. */
  readonly #estimates = new Set<Promise<unknown>>();
  /** The step whose event the consumer holds. */
  #eventOf: number | undefined;
  #noise: T | undefined;

  constructor(model: VelocityModel<T>, options: SampleOptions<T>, backend: SamplerBackend<T>) {
    const methods = readModel(model);
    const o = readOptions(options, SAMPLE_OPTIONS as Names<SampleOptions<T>>);
    const { latents, microFlowNoise, seed = 0, signal, grid, ...sampling } = o;
    this.#settings = resolveOptions(sampling);
    this.plan = planFor(this.#settings, grid);
    this.#grid = this.plan.grid;
    const seedOf = seedsOf(seed);
    this.#backend = readBackend(backend);
    if (this.#settings.lifter === 'nearest' && this.#backend.operators.liftNearest === undefined) {
      throw invalidArgument('lifter', "'gaussian' or a function: this backend has no liftNearest", 'nearest');
    }
    const [batch, channels] = checkLatents(latents, this.plan.totalTokens);
    if (microFlowNoise !== undefined) {
      checkTensor('microFlowNoise', microFlowNoise, [batch, this.plan.totalTokens, channels]);
    }

    this.#model = methods;
    this.#batch = batch;
    this.#channels = channels;
    this.#seeds = seedOf(batch);
    this.#signal = signal;
    this.#givenNoise = microFlowNoise;
    this.#latents = latents.clone();
  }

  /**
   * Current state [B, N, C], float32: the initial noise before the first step, final after the last. The same handle
   * for the whole run.
   */
  get latents(): T {
    return this.#latents;
  }

  /**
   * Starts the run.
   * @throws ERR_JITFLUX_INVALID_ARGUMENT when called a second time, ERR_JITFLUX_DISPOSED after {@link dispose}
   */
  [Symbol.asyncIterator](): AsyncIterator<StepEvent<T>, void, undefined> {
    if (this.#phase === 'disposed') throw disposedError();
    if (this.#phase !== 'new') {
      throw new JitFluxError(
        ERROR_CODES.INVALID_ARGUMENT,
        'A sampler can be iterated only once; create another one for another run',
      );
    }
    this.#phase = 'suspended';
    return this.#run();
  }

  /** Disposes {@link latents} and anything that an unfinished run still holds. That run then fails. Idempotent. */
  dispose(): void {
    const working = this.#phase === 'working';
    this.#phase = 'disposed';
    // While an operation is in flight its tensors stay; the run notices and cleans up.
    if (!working) this.#cleanUp();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  async *#run(): AsyncGenerator<StepEvent<T>, void, undefined> {
    const { plan } = this;
    try {
      this.#resume();
      this.#anchors = this.#initialAnchors();
      for (const stage of plan.stages) {
        const end = stage.firstStep + stage.steps;
        for (let step = stage.firstStep; step < end; step++) {
          const started = performance.now();
          const transition =
            step > 0 && step === stage.firstStep ? await this.#transition(stage, step) : undefined;
          const lists = toLists(this.#anchors);
          await this.#advance(stage, step, lists);
          const event: StepEvent<T> = stepEvent(
            {
              step,
              steps: plan.steps,
              sigma: plan.sigmas[step]!,
              nextSigma: plan.sigmasWithTerminal[step + 1]!,
              stage: stage.stage,
              anchors: lists.list.slice(),
              activeTokens: stage.activeTokens,
              totalTokens: plan.totalTokens,
              grid: [this.#grid[0], this.#grid[1]],
              milliseconds: performance.now() - started,
              latents: this.#latents,
              ...(transition !== undefined && { transition }),
            },
            () => this.#cleanEstimate(step),
          );
          this.#checkActive();
          this.#phase = 'suspended';
          this.#eventOf = step;
          yield event;
          this.#eventOf = undefined;
          this.#resume();
          // A consumer need not await what it asked for; the tensors must not change under the operator.
          await Promise.allSettled(this.#estimates);
          // It is needed again only if the next step begins another stage.
          if (step < end - 1 || stage.stage === 0) this.#releaseVelocity();
        }
      }
    } catch (error) {
      throw this.#translate(error);
    } finally {
      await Promise.allSettled(this.#estimates);
      if (this.#phase !== 'disposed') this.#phase = 'finished';
      this.#cleanUp();
    }
  }

  /** {@link StepEvent.clean} of the event of `step`. */
  async #cleanEstimate(step: number): Promise<T> {
    const velocity = this.#velocity;
    if (this.#phase === 'disposed') throw disposedError();
    if (this.#eventOf !== step || velocity === undefined) {
      const why = 'its clean estimate is to be had until the next step begins';
      throw new JitFluxError(ERROR_CODES.DISPOSED, `The event of step ${step + 1} is over: ${why}`, { step });
    }
    const sigma = this.plan.sigmasWithTerminal[step + 1]!;
    const estimate = this.#backend.operators.predictClean(this.#latents, velocity, sigma);
    this.#estimates.add(estimate);
    try {
      return await estimate;
    } finally {
      this.#estimates.delete(estimate);
    }
  }

  #releaseVelocity(): void {
    if (this.#velocity !== undefined) this.#release(this.#velocity);
    this.#velocity = undefined;
  }

  /** Model evaluation and Euler update of one step. */
  async #advance(stage: StagePlan, step: number, { list, perImage }: TokenLists): Promise<void> {
    const sigma = this.plan.sigmas[step]!;
    const dSigma = this.plan.sigmasWithTerminal[step + 1]! - sigma;
    const dense = stage.activeTokens === this.plan.totalTokens;

    const request = {
      grid: [this.#grid[0], this.#grid[1]] as const,
      step,
      sigma,
      ...(!dense && { anchors: list }),
      ...(this.#signal !== undefined && { signal: this.#signal }),
    };
    this.#checkActive();
    this.#velocity = await this.#stepFrom(request, stage, perImage, dSigma).catch((error: unknown) => {
      throw located(error, { step, steps: this.plan.steps, stage: stage.stage, sigma });
    });
  }

  /** Evaluates the model and updates the latents; returns the full velocity, which is held. */
  async #stepFrom(
    request: Omit<Parameters<VelocityModel<T>['velocity']>[0], 'tokens'>,
    stage: StagePlan,
    perImage: boolean,
    dSigma: number,
  ): Promise<T> {
    // A step in one call has the paper's lifter.
    const isFused = request.anchors === undefined || this.#settings.lifter === 'gaussian';
    if (isFused && typeof this.#model.advance === 'function') {
      const full = await this.#model.advance({ latents: this.#latents, perImage, dSigma, ...request });
      if (full === this.#latents) {
        throw invalidArgument(
          'velocity',
          "advance's result to be a tensor of its own",
          'the latents',
          ERROR_CODES.INVALID_TENSOR,
        );
      }
      return this.#receive('velocity', full, this.plan.totalTokens);
    }
    return this.#evaluate(request, stage.activeTokens, perImage, dSigma);
  }

  /** Gathers, evaluates, lifts and updates; returns the full velocity, which is held. */
  async #evaluate(
    request: Omit<Parameters<VelocityModel<T>['velocity']>[0], 'tokens'>,
    active: number,
    perImage: boolean,
    dSigma: number,
  ): Promise<T> {
    const { operators } = this.#backend;
    const { anchors } = request;
    const tokens = anchors
      ? this.#receive(
          'operators.gather',
          await operators.gather(this.#latents, anchors, { perImage }),
          active,
        )
      : this.#latents;
    this.#checkActive();
    let velocity = await this.#model.velocity({ tokens, ...request });
    // A model may hand its input back; the velocity must be a tensor of its own, because it is disposed.
    if (velocity === tokens) velocity = velocity.clone();
    this.#receive('velocity', velocity, active);
    if (tokens !== this.#latents) this.#release(tokens);

    const isLifted = anchors !== undefined && this.#settings.lifter !== 'gaussian';
    if (isLifted) {
      const lifted = await this.#lift(velocity, anchors);
      this.#release(velocity);
      velocity = lifted;
    }
    this.#checkActive();
    const full = this.#receive(
      'operators.step',
      await operators.step(this.#latents, velocity, {
        ...(anchors && !isLifted && { anchors }),
        grid: this.#grid,
        dSigma,
      }),
      this.plan.totalTokens,
    );
    if (full !== velocity) this.#release(velocity);
    return full;
  }

  /** {@link Lifter} other than `'gaussian'`: [B, M, C] to [B, N, C], which is held. */
  async #lift(values: T, anchors: Int32Array): Promise<T> {
    const { lifter } = this.#settings;
    this.#checkActive();
    const { operators } = this.#backend;
    const given = [values, anchors.slice(), [this.#grid[0], this.#grid[1]]] as const;
    const lifted =
      typeof lifter === 'function'
        ? await (lifter as Lifter<T>)(...given)
        : await operators.liftNearest!(...given);
    if (lifted === values || lifted === this.#latents) {
      throw invalidArgument('lifter', 'a tensor of its own', 'its argument', ERROR_CODES.INVALID_TENSOR);
    }
    return this.#receive('lifter', lifted, this.plan.totalTokens);
  }

  /**
   * The clean latents as the micro-flow's target interpolates them: with a lifter that is not the paper's they are
   * interpolated here, and then known at every token.
   * @returns what `microFlowTarget` takes; `clean` is held
   */
  async #interpolated(
    clean: T,
    { anchors, perImage }: { anchors: Int32Array; perImage: boolean },
  ): Promise<{ clean: T; anchors: Int32Array }> {
    if (this.#settings.lifter === 'gaussian') return { clean, anchors };
    const { totalTokens: total } = this.plan;
    const { operators } = this.#backend;
    const count = perImage ? anchors.length / this.#batch : anchors.length;
    const known = this.#receive(
      'operators.gather',
      await operators.gather(clean, anchors, { perImage }),
      count,
    );
    this.#release(clean);
    const lifted = await this.#lift(known, anchors);
    this.#release(known);
    const lists = perImage ? this.#batch : 1;
    return { clean: lifted, anchors: Int32Array.from({ length: lists * total }, (_, i) => i % total) };
  }

  /** Extends the active sets for the stage that begins and brings the newcomers to its noise level. */
  async #transition(stage: StagePlan, step: number): Promise<StepEvent<T>['transition']> {
    const { totalTokens: total } = this.plan;
    const { operators } = this.#backend;
    const sigma = this.plan.sigmas[step]!;
    const velocity = this.#velocity!;
    const previous = this.#anchors;

    let importance: Promise<Float32Array> | undefined;
    const allImportance = () => {
      this.#checkActive();
      return (importance ??= this.#importanceOf(velocity));
    };
    let next: Int32Array[];
    try {
      if (this.#settings.importanceInEvents) await allImportance();
      next =
        (await this.#selectByImportance(stage, velocity)) ??
        (await this.#activate(stage, step, allImportance));
      this.#checkActive();
    } finally {
      // A policy need not await what it asked for; the velocity must not be disposed under the operator.
      await importance?.catch(() => undefined);
    }
    const fresh = next.map((anchors, image) => newcomers(previous[image]!, anchors, total));
    const count = fresh[0]!.length;
    for (const list of fresh) {
      if (list.length !== count) {
        throw invalidArgument(
          'activation',
          `the same number of new tokens for every image of the batch (${count} for the first)`,
          list.length,
          ERROR_CODES.INVALID_ANCHORS,
        );
      }
    }
    this.#anchors = next;

    if (count > 0) {
      const old = toLists(previous);
      const joining = toLists(fresh);
      const perImage = old.perImage || joining.perImage;
      const anchors = perImage ? flatten(previous) : old.list;
      const newTokens = perImage ? flatten(fresh) : joining.list;
      const noise = await this.#microFlowNoise();
      this.#checkActive();
      // Equals the previous state minus its sigma times v: the Euler step between them was along the same v.
      const clean = this.#receive(
        'operators.predictClean',
        await operators.predictClean(this.#latents, velocity, sigma),
        total,
      );
      const interpolated = await this.#interpolated(clean, { anchors, perImage });
      this.#checkActive();
      const target = this.#receive(
        'operators.microFlowTarget',
        await operators.microFlowTarget({
          ...interpolated,
          noise,
          newTokens,
          sigma,
          grid: this.#grid,
          perImage,
        }),
        count,
      );
      this.#release(interpolated.clean);
      this.#checkActive();
      await operators.microFlow(this.#latents, { ...this.#settings.microFlow, newTokens, target, perImage });
      this.#release(target);
    }
    const map = importance === undefined ? undefined : await importance;
    this.#releaseVelocity();
    if (stage.stage === 0 && this.#noise !== undefined) {
      this.#release(this.#noise);
      this.#noise = undefined;
    }
    if (count === 0) return undefined;
    const { list, perImage } = toLists(fresh);
    return { newTokens: list.slice(), perImage, ...(map !== undefined && { importance: map }) };
  }

  /**
   * The built-in policy's choice for all images, made where the velocity lies, so that the importance map need not come
   * to JavaScript. Undefined if nothing is to be chosen by importance, or the backend leaves it to JavaScript.
   */
  async #selectByImportance(stage: StagePlan, velocity: T): Promise<Int32Array[] | undefined> {
    const { operators } = this.#backend;
    const { totalTokens: total } = this.plan;
    const previous = this.#anchors;
    const targetCount = stage.activeTokens;
    const count = targetCount - previous[0]!.length;
    if (this.#settings.activation !== 'importance' || typeof operators.selectTokens !== 'function') return;
    if (count === 0 || targetCount === total) return;
    const { list, perImage } = toLists(previous);
    this.#checkActive();
    const given = await operators.selectTokens(velocity, {
      anchors: list,
      count,
      grid: this.#grid,
      perImage,
    });
    const chosen = copyOf('Int32Array', given);
    if (chosen?.length !== this.#batch * count) {
      const wanted = `an Int32Array of ${count} tokens for each of ${this.#batch} images`;
      throw invalidArgument('operators.selectTokens', wanted, given, ERROR_CODES.INVALID_ANCHORS);
    }
    return previous.map((anchors, image) => {
      const next = concat(anchors, chosen.subarray(image * count, (image + 1) * count));
      return readAnchors(next, total, 'operators.selectTokens', { count: targetCount });
    });
  }

  /** New active tokens of every image, chosen image by image. */
  async #activate(
    stage: StagePlan,
    step: number,
    allImportance: () => Promise<Float32Array>,
  ): Promise<Int32Array[]> {
    const next: Int32Array[] = [];
    for (let image = 0; image < this.#batch; image++) {
      next.push(await this.#activateImage(stage, step, image, allImportance));
      this.#checkActive();
    }
    return next;
  }

  /** New active tokens of one image. */
  async #activateImage(
    stage: StagePlan,
    step: number,
    image: number,
    allImportance: () => Promise<Float32Array>,
  ): Promise<Int32Array> {
    const { activation } = this.#settings;
    const { totalTokens: total } = this.plan;
    const anchors = this.#anchors[image]!;
    const targetCount = stage.activeTokens;
    const importance = async () => (await allImportance()).slice(image * total, (image + 1) * total);

    if (typeof activation === 'function') {
      let random: Random | undefined;
      const chosen = await activation({
        stage: stage.stage,
        step,
        sigma: this.plan.sigmas[step]!,
        grid: [this.#grid[0], this.#grid[1]],
        image,
        anchors: anchors.slice(),
        targetCount,
        importance,
        random: () =>
          (random ??= new Random(subSeed(this.#seeds[image]!, `activation.${stage.stage}`))).next(),
      });
      return readAnchors(chosen, total, 'activation', { count: targetCount });
    }
    if (targetCount === anchors.length) return anchors;
    if (targetCount === total) return activateAll(anchors, total);
    if (activation === 'grid') return activateOnGrid(anchors, targetCount, this.#grid);
    return activateByImportance(anchors, targetCount, await importance());
  }

  #initialAnchors(): Int32Array[] {
    const { initialAnchors: pattern } = this.#settings;
    const stage = this.plan.stages[0]!;
    return this.#seeds.map((seed) =>
      typeof pattern === 'string'
        ? selectInitialAnchors({
            pattern,
            grid: this.#grid,
            count: stage.activeTokens,
            ratio: stage.tokenRatio,
            random: new Random(subSeed(seed, 'anchors')),
          })
        : pattern,
    );
  }

  async #microFlowNoise(): Promise<T> {
    if (this.#givenNoise !== undefined) return this.#givenNoise;
    if (this.#noise === undefined) {
      this.#checkActive();
      const shape = [this.#batch, this.plan.totalTokens, this.#channels];
      const seeds = this.#seeds.map((seed) => subSeed(seed, 'micro-flow'));
      this.#noise = this.#receive('randn', await this.#backend.randn(shape, seeds), this.plan.totalTokens);
    }
    return this.#noise;
  }

  /** Importance of the tokens of all images, checked: whoever gets it takes its length for granted. */
  async #importanceOf(velocity: T): Promise<Float32Array> {
    const map: unknown = await this.#backend.operators.importance(velocity, this.#grid);
    const copy = copyOf('Float32Array', map);
    const length = this.#batch * this.plan.totalTokens;
    if (copy?.length === length) return copy;
    throw invalidArgument('operators.importance', `a Float32Array of ${length} values`, map);
  }

  /** Holds a tensor that the model or the backend has made, and checks it. @param tokens of each image */
  #receive(option: string, tensor: T, tokens: number): T {
    if (isTensor(tensor)) this.#held.add(tensor);
    checkTensor(option, tensor, [this.#batch, tokens, this.#channels]);
    return tensor;
  }

  #release(tensor: T): void {
    this.#held.delete(tensor);
    if (!tensor.disposed) tensor.dispose();
  }

  /** Disposes intermediate tensors, and the state too if the sampler has been disposed. */
  #cleanUp(): void {
    for (const tensor of [...this.#held]) this.#release(tensor);
    this.#velocity = undefined;
    this.#noise = undefined;
    if (this.#phase === 'disposed' && !this.#latents.disposed) this.#latents.dispose();
  }

  #resume(): void {
    if (this.#phase === 'suspended') this.#phase = 'working';
    this.#checkActive();
  }

  /** Called before every operation. */
  #checkActive(): void {
    if (this.#phase === 'disposed') throw disposedError();
    throwIfAborted(this.#signal);
  }

  /** Whatever a model or policy throws because of our signal is the one documented error. */
  #translate(error: unknown): unknown {
    const signal = this.#signal;
    if (signal?.aborted !== true) return error;
    if (isJitFluxError(error)) return error;
    const caused = error === signal.reason || (isError(error, Error) && error.name === 'AbortError');
    return caused ? abortedError(signal) : error;
  }
}

/** Most seeds of a batch; far beyond what any memory holds the latents of. */
const MAX_BATCH = 1 << 20;

const OPERATORS: Names<JitOperators> = {
  gather: true,
  lift: true,
  liftNearest: true,
  importance: true,
  selectTokens: true,
  predictClean: true,
  microFlow: true,
  microFlowTarget: true,
  step: true,
};
/** What the sampler can do without: `lift` is for those who sample on their own. */
const DISPENSABLE: readonly string[] = ['selectTokens', 'lift', 'liftNearest', 'advance'];

/** The functions of a model, which stay what they are for the whole run. */
function readModel<T extends TensorLike>(model: VelocityModel<T>): VelocityModel<T> {
  const expected = 'an object with a velocity() method';
  const methods = readFields(model, 'model', { velocity: true, advance: true }, expected);
  if (typeof (methods as Partial<VelocityModel>).velocity !== 'function') {
    throw invalidArgument('model', expected, model);
  }
  return boundTo(model, methods, ['velocity', 'advance'], 'model.');
}

/** The functions of a backend, likewise. */
function readBackend<T extends TensorLike>(given: SamplerBackend<T>): SamplerBackend<T> {
  const expected = '{ operators, randn }';
  const backend = readFields(given, 'backend', { operators: true, randn: true }, expected);
  const operators = readFields(backend.operators, 'backend.operators', OPERATORS as Names<JitOperators<T>>);
  return {
    ...boundTo(given, backend, ['randn'], 'backend.'),
    operators: boundTo(backend.operators, operators, Object.keys(OPERATORS), 'backend.operators.'),
  };
}

/** Functions that are called as methods of the object that they were read from. */
function boundTo<T extends object>(owner: T, methods: T, names: readonly string[], prefix: string): T {
  const bound: Record<string, unknown> = {};
  for (const name of names) {
    const method = (methods as Record<string, unknown>)[name];
    if (typeof method === 'function') {
      bound[name] = (...args: unknown[]): unknown => Reflect.apply(method, owner, args) as unknown;
    } else if (method !== undefined || !DISPENSABLE.includes(name)) {
      throw invalidArgument(`${prefix}${name}`, 'a function', method);
    }
  }
  return bound as T;
}

/** Checks the seed option; the result gives one seed per image of a batch. */
function seedsOf(seed: NonNullable<SampleOptions['seed']>): (batch: number) => bigint[] {
  if (typeof seed !== 'object' || seed === null) {
    const first = normalizeSeed(seed);
    return (batch) => imageSeeds(first, batch);
  }
  const seeds = readSeeds(seed, `a seed, or a list of at most ${MAX_BATCH} seeds`, [0, MAX_BATCH]);
  return (batch) => {
    if (seeds.length === batch) return seeds;
    throw invalidArgument('seed', `one seed, or ${batch} (one per image)`, seeds);
  };
}

function toLists(perImage: Int32Array[]): TokenLists {
  const first = perImage[0]!;
  const shared = perImage.every((list) => list === first || equal(list, first));
  return shared ? { list: first, perImage: false } : { list: flatten(perImage), perImage: true };
}

/** One list of equal length per image, one after another. */
function flatten(lists: Int32Array[]): Int32Array {
  const length = lists[0]!.length;
  const flat = new Int32Array(lists.length * length);
  lists.forEach((list, image) => flat.set(list, image * length));
  return flat;
}

function equal(a: Int32Array, b: Int32Array): boolean {
  return a.length === b.length && a.every((token, i) => token === b[i]);
}

function checkLatents(latents: TensorLike, tokens: number): [batch: number, channels: number] {
  const [batch, , channels] = checkTensor('latents', latents, [undefined, tokens, undefined]);
  return [batch!, channels!];
}

/** Checks dtype and shape ([B, N, C]; undefined matches any size >= 1) and returns the shape. */
function checkTensor(
  option: string,
  tensor: TensorLike,
  expected: readonly (number | undefined)[],
): readonly number[] {
  const names = ['B', 'N', 'C'];
  const wanted = `a float32 tensor [${expected.map((n, i) => n ?? names[i]).join(', ')}]`;
  if (!isTensor(tensor)) {
    throw invalidArgument(option, wanted, tensor, ERROR_CODES.INVALID_TENSOR);
  }
  const { dtype, disposed } = reading(option, () => ({ dtype: tensor.dtype, disposed: tensor.disposed }));
  if (disposed) throw disposedError(option);
  const shape = readList<number>(tensor.shape, option, wanted, [0, 64], ERROR_CODES.INVALID_TENSOR);
  const fits = shape.length === expected.length && shape.every((n, i) => n >= 1 && n === (expected[i] ?? n));
  if (!fits || dtype !== 'float32') {
    throw invalidArgument(option, wanted, `${dtype} [${shape.join(', ')}]`, ERROR_CODES.INVALID_TENSOR);
  }
  return shape;
}

function isTensor(value: TensorLike): boolean {
  try {
    return (
      typeof value === 'object' && value !== null && isArray(value.shape) && typeof value.clone === 'function'
    );
  } catch {
    return false;
  }
}

/** Where in the run an operator found values that are no numbers. */
function located(error: unknown, at: { step: number; steps: number; stage: number; sigma: number }): unknown {
  if (!isJitFluxError(error) || error.code !== ERROR_CODES.NOT_FINITE) return error;
  const { step, steps, stage, sigma } = at;
  const where = `after step ${step + 1} of ${steps} (stage ${stage}, sigma ${Number(sigma.toFixed(4))})`;
  const details = { ...error.details, step, stage, sigma };
  return new JitFluxError(error.code, `${error.message}, ${where}`, details, { cause: error });
}

function disposedError(option?: string): JitFluxError {
  return option === undefined
    ? new JitFluxError(ERROR_CODES.DISPOSED, 'The sampler has been disposed')
    : new JitFluxError(ERROR_CODES.DISPOSED, `The tensor "${option}" has been disposed`, { option });
}
