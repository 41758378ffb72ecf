/**
 * The public vocabulary: interfaces shared by the sampler (pure TypeScript), the native runtime and the
 * pipeline. This file holds types only, so that everything may import it.
 */

/** Where tensors live and kernels run: `'cpu'`, or `'cuda'` / `'cuda:<index>'` when the CUDA library is built. */
export type Device = 'cpu' | 'cuda' | `cuda:${number}`;

/** Element types of tensors. Latents and velocities are always `'float32'`, whatever the model computes in. */
export type DType = 'float32' | 'bfloat16' | 'float16' | 'float64' | 'int32' | 'int64';

/** The elements of a tensor that comes from JavaScript, row-major: float32, int32 or int64. */
export type TensorData = Float32Array | Int32Array | BigInt64Array;

/** Packed-token grid: [rows, columns]; token i lies at row i / columns, column i % columns. */
export type Grid = readonly [rows: number, cols: number];

/**
 * What the sampler needs to know of a tensor handle. `Tensor` of the native runtime implements it; a test or
 * another backend may bring its own.
 */
export interface TensorLike {
  readonly shape: readonly number[];
  readonly dtype: DType;
  readonly disposed: boolean;
  dispose(): void;
  /** A deep copy. */
  clone(): this;
  /** Copies the elements to JavaScript, converted to float32, in row-major order. */
  toFloat32Array(): Promise<Float32Array>;
}

/**
 * How newcomers are brought in at a stage transition (JiT's deterministic micro-flow, DMF).
 *
 * - `'finite-time'`: the paper's hitting ODE dy/dt = (y* - y)/(T - t), followed to its end: exactly the target. It has no
 *   number of steps, because equal Euler sub-steps (1/n, 1/(n-1), ..., 1 of the way that is left) end there whatever n is.
 * - `'relax'`: the released code's single blend `(1 - 1/steps) y + (1/steps) target`; `steps` 0 or 1 replaces the value by
 *   the target, as finite-time does.
 */
export type MicroFlowOptions = { mode: 'finite-time' } | { mode: 'relax'; steps: number };

/** A velocity model over packed tokens: FLUX through `FluxTransformer.bind()`, or any backbone of yours. */
export interface VelocityModel<T extends TensorLike = TensorLike> {
  /**
   * The velocity dx/dsigma (noise minus data) at the given tokens.
   * @param i.tokens packed latents at the active tokens, [B, M, C] float32
   * @param i.anchors grid indices of those tokens, [M], or [B*M] when every image has its own; absent: all tokens in order
   * @returns velocity at those tokens, [B, M, C] float32; the sampler disposes it
   */
  velocity(i: {
    tokens: T;
    anchors?: Int32Array | undefined;
    grid: Grid;
    step: number;
    sigma: number;
    signal?: AbortSignal | undefined;
  }): Promise<T>;

  /**
   * Optional: a whole Euler step in one call, for models that gather the anchor tokens, lift their velocity and update
   * the latents by themselves: `latents += dSigma * lift(velocity)`, in place. Where a model has it, the sampler calls
   * it instead of `velocity` and the operators' `gather` and `step`; the result must be the same.
   * @param i.latents of the whole grid, [B, N, C] float32
   * @param i.anchors as in `velocity`; `perImage`: one list of equal length per image, [B*M]
   * @returns the velocity of all tokens, [B, N, C] float32; the sampler disposes it
   */
  advance?:
    | ((i: {
        latents: T;
        anchors?: Int32Array | undefined;
        perImage: boolean;
        grid: Grid;
        step: number;
        sigma: number;
        dSigma: number;
        signal?: AbortSignal | undefined;
      }) => Promise<T>)
    | undefined;
}

/**
 * The JiT operators on tensors. Implemented in C++ for `Tensor` (`jit` of this package). B images, N = rows*cols
 * tokens, M anchors, C channels; all tensors float32.
 *
 * Lists of tokens (`anchors`, `newTokens`) are shared by the images of a batch, or hold one list of equal length per
 * image, one after another: [M] or [B*M]. Where a tensor argument has M (or K) rows per image, its shape says which.
 * `gather`, `microFlow` with a full-size target, and `microFlowTarget` cannot know: there `perImage: true` announces
 * [B*M], and without it the list is shared. It makes no difference for B = 1.
 */
export interface JitOperators<T extends TensorLike = TensorLike> {
  /**
   * Rows of `latents` [B, N, C] at the anchors: [B, M, C], in the order of the list.
   * @param o.perImage `anchors` holds one list per image, [B*M]; default false: one list for all, [M]
   */
  gather(latents: T, anchors: Int32Array, o?: { perImage?: boolean | undefined }): Promise<T>;
  /**
   * SAG-ODE's augmented lifter (paper eq. for Pi_k): anchors keep their value exactly, every other token gets the
   * Gaussian-blurred nearest-anchor field. Among equally near anchors the one earliest in the list wins.
   */
  lift(v: T, anchors: Int32Array, grid: Grid): Promise<T>;
  /**
   * Optional: the nearest-anchor field as it is, without the blur. Needed for runs whose `lifter` is `'nearest'`.
   */
  liftNearest?: ((v: T, anchors: Int32Array, grid: Grid) => Promise<T>) | undefined;
  /**
   * ITA's importance: variance of the velocity over a 3x3 window (zero padding, division by 9), averaged over
   * channels. Returns B*N values.
   */
  importance(velocity: T, grid: Grid): Promise<Float32Array>;
  /**
   * Optional: ITA's choice where the velocity lies. The `count` tokens of highest {@link importance} that are no anchors,
   * highest first, equal ones by lower token: what the policy `'importance'` adds. The sampler asks for it where a
   * backend has it, and else sorts the importance map in JavaScript. One list per image: [B*count].
   * @param o.perImage `anchors` holds one list per image; default false
   */
  selectTokens?:
    | ((
        velocity: T,
        o: { anchors: Int32Array; count: number; grid: Grid; perImage?: boolean | undefined },
      ) => Promise<Int32Array>)
    | undefined;
  /** Tweedie's estimate of the clean latent: x0 = x - sigma * v. */
  predictClean(latents: T, velocity: T, sigma: number): Promise<T>;
  /**
   * Brings the new tokens of `latents` [B, N, C] to (or towards) `target`, in place.
   * @param o.newTokens [K] or [B*K]; which of the two follows from the target's second dimension
   * @param o.target [B, K, C]
   */
  microFlow(
    latents: T,
    o: MicroFlowOptions & { newTokens: Int32Array; target: T; perImage?: boolean | undefined },
  ): Promise<void>;
  /**
   * The micro-flow's target (1 - sigma) * lift(clean at the old anchors) + sigma * noise, at the new tokens: [B, K, C].
   * @param o.clean predicted clean latent, [B, N, C]
   * @param o.noise fixed noise, [B, N, C]
   * @param o.perImage `anchors` and `newTokens` hold one list per image; default false
   */
  microFlowTarget(o: {
    clean: T;
    noise: T;
    anchors: Int32Array;
    newTokens: Int32Array;
    sigma: number;
    grid: Grid;
    perImage?: boolean | undefined;
  }): Promise<T>;
  /**
   * Fused scatter + lift + Euler: latents += dSigma * Lift(velocity), in place.
   * @param velocity [B, M, C] at the anchors, or [B, N, C] without `anchors`
   * @returns the full velocity field [B, N, C]
   * @throws (rejects) ERR_JITFLUX_NOT_FINITE if NaN or infinite values are in the latents then
   */
  step(
    latents: T,
    velocity: T,
    o: { anchors?: Int32Array | undefined; grid: Grid; dSigma: number },
  ): Promise<T>;
}

export type PresetName = 'dense' | 'jit-4x' | 'jit-7x';

/**
 * How the noise levels of the steps are chosen.
 *
 * - `'beta'`: JiT's, quantiles of a Beta distribution.
 * - `'shift'`: FLUX.1-dev's, evenly spaced and moved towards high noise, the more the larger the picture.
 * - `'static'`: FLUX.1-schnell's, evenly spaced and moved by the constant `shift`: s' = a s / (1 + (a - 1) s).
 * - `'sigmas'`: the levels themselves, descending, without the terminal 0.
 */
export type ScheduleOptions =
  | { kind: 'beta'; alpha: number; beta: number }
  | { kind: 'shift' }
  | { kind: 'static'; shift: number }
  | { kind: 'sigmas'; sigmas: number[] };

/** What an activation policy sees when tokens must join. One call per image. */
export interface ActivationContext {
  /** Stage that is about to begin; 0 is the last one, with all tokens. */
  stage: number;
  step: number;
  sigma: number;
  grid: Grid;
  /** Index of the image in the batch. */
  image: number;
  /** Active tokens so far, in activation order. */
  anchors: Int32Array;
  /** Number of tokens that must be active afterwards. */
  targetCount: number;
  /** Local variance of the velocity at every token, [N] (see {@link JitOperators.importance}); computed on first call. */
  importance(): Promise<Float32Array>;
  /** Deterministic random numbers in [0, 1), from the request's seed. */
  random(): number;
}

/**
 * Returns the new list of active tokens, `targetCount` distinct indices. The built-in policies only append, so that
 * the sets are nested as in the paper; a custom policy may also drop tokens.
 */
export type ActivationPolicy = (ctx: ActivationContext) => Int32Array | Promise<Int32Array>;

/**
 * Spreads what is known at the anchors over the whole grid, as {@link JitOperators.lift} does: [B, M, C] to a new tensor
 * [B, N, C]. `anchors` has one list for all images, [M], or one per image, [B*M]. The sampler disposes the result.
 */
export type Lifter<T extends TensorLike = TensorLike> = {
  // As a method, so that a function over a backend's own tensors is one for TensorLike, too.
  lift(v: T, anchors: Int32Array, grid: Grid): T | Promise<T>;
}['lift'];

export interface JitOptions {
  /** Named settings; every other option overrides the preset's value. Default `'jit-4x'`. */
  preset?: PresetName | undefined;
  /** Number of model evaluations (NFE). */
  steps?: number | undefined;
  /** Cumulative share of the steps at which each stage ends, ascending, the last 1. */
  stageRatios?: number[] | undefined;
  /** Share of tokens that are active in each stage, the last 1. */
  tokenRatios?: number[] | undefined;
  schedule?: ScheduleOptions | undefined;
  /** Pattern of the first stage's anchors, or the anchors themselves. Default `'checkerboard'`. */
  initialAnchors?: 'checkerboard' | 'strided' | Int32Array | undefined;
  /** Which tokens join at a transition. Default `'importance'`. */
  activation?: 'importance' | 'grid' | ActivationPolicy | undefined;
  microFlow?: MicroFlowOptions | undefined;
  /**
   * How velocities at the anchors, and the clean latents at a transition, are spread over all tokens. `'gaussian'`
   * (default): the paper's augmented lifter, fused with the step. `'nearest'`: every token takes its nearest anchor's
   * value. Or a function. The latter two are for ablations: they take a pass of their own.
   */
  lifter?: 'gaussian' | 'nearest' | Lifter | undefined;
  /**
   * Put the importance map of every transition into its {@link StepEvent}. The policy `'importance'` of native tensors
   * chooses without the map, which otherwise stays where the velocity lies. The pictures are the same. Default false.
   */
  importanceInEvents?: boolean | undefined;
}

/** Options of a sampling run. */
export interface SampleOptions<T extends TensorLike = TensorLike> extends JitOptions {
  grid: Grid;
  /** Initial noise, packed [B, N, C] float32. Not modified. */
  latents: T;
  /** Fixed noise of the micro-flow targets, packed [B, N, C]. Default: drawn from `seed`. */
  microFlowNoise?: T | undefined;
  /**
   * Seeds the micro-flow noise and any random anchor choice, through named sub-streams: image b of the batch uses
   * seed + b. Or a list with one seed per image. Default 0.
   */
  seed?: number | bigint | readonly (number | bigint)[] | undefined;
  signal?: AbortSignal | undefined;
}

/** State after one step of the sampler. */
export interface StepEvent<T extends TensorLike = TensorLike> {
  /** 0-based index of the step. */
  step: number;
  /** Number of steps of the run. */
  steps: number;
  sigma: number;
  nextSigma: number;
  /** Stages count down to 0, the stage in which all tokens are active. */
  stage: number;
  /** Active tokens of this step in activation order: [M], or [B*M] if the images' sets differ. */
  anchors: Int32Array;
  /** Active tokens per image. */
  activeTokens: number;
  totalTokens: number;
  grid: [rows: number, cols: number];
  /** Wall time of the step, transition included. */
  milliseconds: number;
  /** Live handle to the state after this step; clone it to keep it. */
  latents: T;
  /**
   * Estimate of the clean latents that the run is heading for, [B, N, C]: x0 = x - sigma' v, of this step's state and
   * velocity. A new tensor, which the caller disposes.
   * @throws (rejects) ERR_JITFLUX_DISPOSED once the next step has begun or the run is over
   */
  clean(): Promise<T>;
  /** Set on the first step of a denser stage. */
  transition?: {
    /** Tokens that joined: [K], or [B*K] if `perImage`. */
    newTokens: Int32Array;
    /** Whether the images of the batch got different ones. */
    perImage: boolean;
    /**
     * Local variance of the velocity at every token, [B*N], if a policy of one's own asked for it, the backend has no
     * `selectTokens`, or the run has `importanceInEvents`.
     */
    importance?: Float32Array;
  };
}

/** One stage of a plan. */
export interface StagePlan {
  /** Counts down to 0. */
  stage: number;
  firstStep: number;
  /** Number of steps. */
  steps: number;
  tokenRatio: number;
  activeTokens: number;
  /** FLOPs of the stage's forward passes; 0 unless the plan was given a model. */
  flops: number;
}

/** Everything that is known of a run before it starts; plain data, `JSON.stringify` gives all of it. */
export interface JitPlan {
  preset: PresetName | 'custom';
  grid: [rows: number, cols: number];
  totalTokens: number;
  steps: number;
  /** Noise levels, `steps` values, descending. */
  sigmas: number[];
  /** `steps + 1` values: `sigmas` and the terminal 0. */
  sigmasWithTerminal: number[];
  stages: StagePlan[];
  /** Stage of every step. */
  stageOfStep: number[];
  /** Active tokens of every step. */
  tokensPerStep: number[];
  microFlow: MicroFlowOptions;
  /** Present when the plan was given a model. */
  flops?: {
    total: number;
    perStep: number[];
    /** FLOPs of 50 and of 28 dense steps over those of this plan. */
    speedup: { dense50: number; dense28: number };
  };
}

/** What of a description is known; fields of the rest are absent or undefined. */
export type PartlyKnown<T> = { [Field in keyof T]?: T[Field] | undefined };

/** Architecture of a FLUX transformer, inferred from its tensors. */
export interface FluxConfig {
  doubleBlocks: number;
  singleBlocks: number;
  heads: number;
  headDim: number;
  /** heads * headDim. */
  hiddenSize: number;
  inChannels: number;
  outChannels: number;
  /** Width of the text tokens (T5). */
  textDim: number;
  /** Width of the pooled prompt (CLIP). */
  pooledDim: number;
  mlpRatio: number;
  guidance: boolean;
  ropeAxes: readonly [number, number, number];
}

/** Architecture of a CLIP text encoder. */
export interface ClipConfig {
  /** Number of token ids. */
  vocabulary: number;
  /** Longest text, 77 for CLIP-L. */
  maxTokens: number;
  /** Width of the states and of the pooled vector. */
  width: number;
  mlpWidth: number;
  layers: number;
  heads: number;
  /** Id at whose first position the pooled vector is taken; 2 means "the largest id", as in transformers. */
  eosTokenId: number;
}

/** Architecture of a T5 encoder. */
export interface T5Config {
  /** Number of token ids. */
  vocabulary: number;
  /** Longest text: 512, FLUX's limit. */
  maxTokens: number;
  width: number;
  mlpWidth: number;
  layers: number;
  heads: number;
  headDim: number;
  positionBuckets: number;
  /** Distance from which all positions share the last bucket. */
  maxDistance: number;
}

/** Architecture of an autoencoder, and how its latents are normalised. */
export interface AutoencoderConfig {
  latentChannels: number;
  /** Pixels per latent cell, along each side. */
  spatialFactor: number;
  /** Channels of the levels, the finest first. */
  channels: number[];
  /** Residual blocks per level of the encoder; the decoder has one more. */
  layersPerBlock: number;
  normGroups: number;
  /** Whether the weights include the encoder. */
  encoder: boolean;
  /** Key layout of the weights. */
  names: 'diffusers' | 'original';
  /** Normalised latent = (z - shiftFactor) * scalingFactor. */
  scalingFactor: number;
  shiftFactor: number;
}

/** Options of a decode. */
export interface DecodeOptions {
  /**
   * `'auto'` (default): if the activations would exceed the budget, in tiles of equal size as large as it allows.
   * `true`: in such tiles of at most 64 x 64 latent cells. `false`: never. Or tiles of `tileSize` x `tileSize` latent
   * cells that share `overlap` (default a quarter) with their neighbours, exactly as diffusers' `tiled_decode` cuts and
   * blends them; slivers may remain at the end.
   */
  tiling?: 'auto' | boolean | { tileSize: number; overlap?: number | undefined } | undefined;
  /** Memory for one picture's activations, weights and finished picture not counted. Default 2 GiB. */
  memoryBudgetBytes?: number | undefined;
  signal?: AbortSignal | undefined;
  /** Called with the blocks done so far, over all tiles and pictures. */
  onProgress?: ((p: { done: number; total: number }) => void) | undefined;
}

/**
 * Form of the transformer blocks' weights. On the CPU: reordered copies, as the file holds them, or quantised copies.
 * On a GPU: in its memory, or in the host's and copied over block by block in every pass.
 */
export type BlockWeights = 'packed' | 'mapped' | 'int8' | 'resident' | 'streamed';

export interface LoadOptions {
  /** Where the model computes. Default `'cpu'`. */
  device?: Device | undefined;
  /** Type of weights and activations. Default: `'float32'` on the CPU, `'bfloat16'` on a GPU. float16: on a GPU only. */
  dtype?: 'float32' | 'bfloat16' | 'float16' | undefined;
  /**
   * `'int8'`: the transformer blocks' linear layers multiply 8-bit integers, weights quantised per output channel and
   * activations per token: about 1.6 times as fast as bfloat16 with half its memory, and slightly less exact
   * (docs/performance.md). Everything else stays in `dtype`. Of a pipeline the transformer's alone; text encoders have
   * `quantizeTextEncoders`, the autoencoder is not quantised. {@link T5Encoder.load} takes it too.
   */
  quantize?: 'int8' | undefined;
  /**
   * `'int8'`: the same for the blocks of a pipeline's T5 encoder. Its weights are read and quantised while it is loaded:
   * memory of this process (4.6 GB for T5-XXL), half of what bfloat16 maps. On the CPU only, and not for TorchScript text
   * encoders. CLIP, which is small, stays as it is.
   */
  quantizeTextEncoders?: 'int8' | undefined;
  /**
   * Reorder the transformer blocks' weights, when they are first used, into the layout in which they are multiplied
   * fastest: memory of this process. false: they stay in the file's mapping, which processes share and the system may
   * drop; the pictures are the same. Default: true, or in a pipeline whatever fits into memory. Has no meaning with
   * `quantize`.
   */
  packWeights?: boolean | undefined;
  /**
   * false: all weights are read into memory of this process while the model is loaded, none are used from a mapping of
   * the file, and the file is closed afterwards (with `keepModulation: false` it stays open and is read for each
   * picture). For files that another process may truncate or rewrite in place, and for network file systems. It costs
   * time while loading and the memory that mappings share between processes and the system may take back
   * ({@link planMemory} counts it); the pictures are the same. Default true.
   */
  mapWeights?: boolean | undefined;
  /**
   * GPU only. The transformer blocks' weights stay in page-locked host memory and every pass copies them to the GPU,
   * two blocks ahead of the computation: for GPUs that cannot hold them. Default: false, or in a pipeline if they do
   * not fit.
   */
  weightStreaming?: boolean | undefined;
  /**
   * GPU only, not with `weightStreaming`. Record the kernels of a pass (one record per number of tokens: three for a
   * JiT run) and launch them as one CUDA graph. The pictures are the same. Default false.
   */
  cudaGraphs?: boolean | undefined;
  /**
   * Where the text encoders of a pipeline compute, if not on `device`: `'cpu'` leaves the GPU to the transformer.
   * TorchScript ones always compute on the CPU. Default: `device`.
   */
  textEncoderDevice?: Device | undefined;
  /** Where the autoencoder of a pipeline computes; as `textEncoderDevice`. */
  decoderDevice?: Device | undefined;
  /** Threads of the native engine. Default: physical cores. */
  threads?: number | undefined;
  /** Checks the CRC-32 of every record of a TorchScript archive (reads the whole file). Default false. */
  verify?: boolean | undefined;
  /**
   * `'reference'` rounds timestep*1000 and guidance*1000 to the model's dtype as diffusers and BFL do;
   * `'exact'` keeps float32. They differ only below float32. Default `'reference'`.
   */
  timeEmbedding?: 'reference' | 'exact' | undefined;
  /**
   * Directory of a FLUX.1 snapshot whose text encoders and tokenizers (`text_encoder/`, `text_encoder_2/`,
   * `tokenizer/`, `tokenizer_2/`) to use; original checkpoints come without. `false`: none are loaded, and requests
   * give a `conditioning` instead of a prompt. Default: those of the model's own directory.
   */
  textEncoders?: string | false | undefined;
  /**
   * Which weights to take where a model's directories have several: `'fp16'` for `model.fp16.safetensors`. Default: those
   * without a variant.
   */
  variant?: string | undefined;
  /**
   * `false`: text encoders are loaded for a prompt and released after it, which takes time for every prompt and spares
   * their memory while sampling (9.5 GB for T5-XXL in bfloat16). Default true.
   */
  keepTextEncoders?: boolean | undefined;
  /** `false`: likewise for the autoencoder, around every decode. Default true. */
  keepDecoder?: boolean | undefined;
  /**
   * Before anything is loaded, the memory that it will take is estimated (see `planMemory`) and a model that cannot fit
   * is refused with ERR_JITFLUX_OUT_OF_MEMORY. Give the largest request to expect, or `false` to skip the check.
   * Default: the model's default size, one picture.
   */
  memoryCheck?:
    | boolean
    | {
        width?: number | undefined;
        height?: number | undefined;
        images?: number | undefined;
        textTokens?: number | undefined;
        steps?: number | undefined;
      }
    | undefined;
  /**
   * Keep the transformer's modulation weights in memory between pictures: 27 % of FLUX.1-dev's parameters, needed once
   * per picture. false: they are read from the file each time and dropped at once. Default true.
   */
  keepModulation?: boolean | undefined;
  /** Lets the code inside TorchScript text encoders and VAEs run. Not needed for the bundled model. Default false. */
  allowTorchScriptCode?: boolean | undefined;
  onProgress?: ((p: { loadedBytes: number; totalBytes: number; tensor: string }) => void) | undefined;
  signal?: AbortSignal | undefined;
}
