import type { Tensor } from '../engine/index.js';
import type { RunOptions } from '../model/run.js';
import type { JitPlan, LoadOptions, StepEvent } from '../types.js';
import type { EncodedPrompts } from './encoded-prompts.js';
import type { GeneratedImage } from './image.js';
import type { GenerateWarning } from './warning.js';

export type { GenerateWarning } from './warning.js';

/** What to generate. Everything but `prompt` or `conditioning`, of which exactly one is given, has a default. */
export interface GenerateRequest extends RunOptions {
  /** One prompt, or one per picture (times {@link numImages}). */
  prompt?: string | string[] | undefined;
  /**
   * Prompts that were encoded before, by `encodePrompt` or in another process; they take the place of `prompt`. Neither
   * changed nor disposed.
   */
  conditioning?: EncodedPrompts | undefined;
  /**
   * Drives everything random: image b uses seed + b. Or a list of one seed per picture. Default: drawn at random, see
   * {@link GenerateResult.seed}.
   */
  seed?: number | bigint | readonly (number | bigint)[] | undefined;
  /** Strength of the embedded guidance, >= 0. Default: the model's. */
  guidance?: number | undefined;
  /** Initial noise instead of the seed's, packed [images, tokens, channels] float32. Neither changed nor disposed. */
  latents?: Tensor | undefined;
  /** Pictures per prompt. Default: 1, or as many as a list of seeds has for each. All pictures of a request are sampled as one batch, at most 64. */
  numImages?: number | undefined;
  /**
   * Called after every step. A promise is waited for before the next one; an exception or a rejection ends the request. (The
   * requests of a batch wait for each other.)
   */
  onStep?: ((event: StepEvent<Tensor>) => void | Promise<void>) | undefined;
  signal?: AbortSignal | undefined;
  /** `'latent'` skips the decoder and returns {@link GenerateResult.latents}. Default `'image'`. */
  output?: 'image' | 'latent' | undefined;
}

/** Wall time in milliseconds. */
export interface GenerateTimings {
  /** Waiting for other requests of the same pipeline; not part of `total`. */
  queued: number;
  /** Tokenizer and text encoder. */
  encode: number;
  /** Everything of the transformer that does not depend on the image tokens, for all steps. */
  condition: number;
  /** Sampling, stage by stage. */
  stages: { stage: number; steps: number; activeTokens: number; milliseconds: number }[];
  /** Latents to pixels; 0 if the output is `'latent'`. */
  decode: number;
  total: number;
}

export interface GenerateResult {
  /** Prompt by prompt, `numImages` each. Empty if the output is `'latent'`. */
  images: GeneratedImage[];
  /** With `output: 'latent'`: the final latents, packed [images, tokens, channels]; the caller disposes them. */
  latents?: Tensor;
  /** The seed that was used; of a list the first. */
  seed: number | bigint;
  /** Those of all pictures. */
  seeds: (number | bigint)[];
  /** What was run, with token counts and FLOPs of every stage. */
  plan: JitPlan;
  warnings: GenerateWarning[];
  /** What was sampled together: this request alone, unless `dynamicBatching` put others beside it. */
  batch: { requests: number; images: number };
  timings: GenerateTimings;
}

/** Options of {@link FluxPipeline.decode}. */
export interface DecodeRequest {
  /** Pixels of the pictures whose latents these are. Default: the model's. A step's event has its own. */
  width?: number | undefined;
  height?: number | undefined;
  signal?: AbortSignal | undefined;
}

/** Options of {@link FluxPipeline.warmUp}. */
export interface WarmUpOptions {
  signal?: AbortSignal | undefined;
  /** Called while the transformer's weights are prepared, after every block. */
  onProgress?: ((p: { block: number; blocks: number }) => void) | undefined;
}

/** Options of {@link FluxPipeline.load}: those of a model, and how a pipeline serves its requests. */
export interface PipelineOptions extends LoadOptions {
  /**
   * Requests at work at a time, 1 to 64. Their steps take turns on the same device: a short request need not wait for a
   * long one, and each takes longer. Every one holds latents and conditioning of its own. Default 1.
   */
  concurrency?: number | undefined;
  /**
   * Requests that may wait; one more is rejected with ERR_JITFLUX_QUEUE_FULL. 0: none. Default {@link DEFAULT_MAX_QUEUE}.
   */
  maxQueue?: number | undefined;
  /**
   * Lets requests that wait be sampled together, up to `maxImages` pictures (2 to 64) in one batch: those of `generate`
   * that have the same size, sampling options and number of text tokens, and neither latents nor an activation policy of
   * their own. Seeds, prompts and guidance may differ. A request whose turn it is waits up to `maxWaitMilliseconds`
   * (default 0) for others. A picture equals that of a request alone but for rounding, since matrices of other shapes
   * are multiplied. Default: off.
   */
  dynamicBatching?: { maxImages: number; maxWaitMilliseconds?: number | undefined } | undefined;
}

/** Requests that may wait for a pipeline, unless `maxQueue` says otherwise. */
export const DEFAULT_MAX_QUEUE = 100;
