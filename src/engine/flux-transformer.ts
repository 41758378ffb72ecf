import {
  checkCallback,
  checkFloat,
  checkInteger,
  checkPath,
  isArray,
  OURS,
  type Names,
  readFields,
  readOptions,
  readList,
} from '../arguments.js';
import { invalidArgument } from '../errors.js';
import { readGrid } from '../sampler/stages.js';
import type { ConditioningHandle, TransformerHandle } from './binding.js';
import { runNative } from './call.js';
import type { BlockWeights, FluxConfig, Grid, LoadOptions, VelocityModel } from '../types.js';
import { requestedBlockWeights } from './block-weights.js';
import { readTransformerConfig } from './component-config.js';
import { loadJob, nativeLoadOptions, readLoadOptions } from './load-options.js';
import { Tensor, tensorOf } from './tensor.js';
import { NativeModel } from './native-model.js';
import { handleOf, NativeObject } from './native-object.js';

let conditioningOf: (handle: ConditioningHandle, images: number, steps: number) => Conditioning;

/** What {@link FluxTransformer.condition} prepared: text tokens and every block's modulation, for all steps. */
export class Conditioning extends NativeObject<ConditioningHandle> {
  readonly images: number;
  readonly steps: number;

  private constructor(key: typeof OURS, handle: ConditioningHandle, images: number, steps: number) {
    super(key, handle, 'conditioning', 'FluxTransformer.condition');
    this.images = images;
    this.steps = steps;
  }

  static {
    conditioningOf = (handle, images, steps) => new Conditioning(OURS, handle, images, steps);
  }
}

/**
 * The FLUX transformer (diffusers' `FluxTransformer2DModel`), dense or over any subset of a grid's tokens.
 */
export class FluxTransformer extends NativeModel<TransformerHandle> {
  /** Inferred from the tensors. */
  readonly config: FluxConfig;
  readonly #device: number;

  private constructor(key: typeof OURS, handle: TransformerHandle, config: FluxConfig, device: number) {
    super(key, handle, 'transformer');
    this.config = Object.freeze(config);
    this.#device = device;
  }

  /**
   * Loads weights from a TorchScript archive (whose code is never run), a safetensors file or index, or a directory
   * that holds one of them; names in the diffusers or the original layout, with or without a prefix.
   *
   * The RoPE axes cannot be seen in the tensors: they come from `ropeAxes`, a `config.json` (or `<name>.config.json`)
   * beside the weights, an `axes_dims_rope` attribute of the archive, or the rule 16,56,56 for heads of 128.
   *
   * @throws ERR_JITFLUX_FILE_NOT_FOUND, ERR_JITFLUX_UNSUPPORTED_FORMAT, ERR_JITFLUX_CORRUPT_FILE,
   *   ERR_JITFLUX_UNSAFE_FILE, ERR_JITFLUX_WEIGHTS_MISMATCH, ERR_JITFLUX_DEVICE_UNAVAILABLE, ERR_JITFLUX_ABORTED
   */
  static async load(
    path: string,
    given: LoadOptions & {
      ropeAxes?: FluxConfig['ropeAxes'] | undefined;
      /** @internal Decided already, in place of `quantize`, `packWeights` and `weightStreaming`. */
      blockWeights?: BlockWeights | undefined;
    } = {},
  ): Promise<FluxTransformer> {
    const o = readLoadOptions(given, { ropeAxes: true, blockWeights: true });
    checkPath('path', path);
    const axes = o.ropeAxes && readList(o.ropeAxes, 'ropeAxes', 'three numbers', [3, 3]);
    if (o.timeEmbedding !== undefined && o.timeEmbedding !== 'reference' && o.timeEmbedding !== 'exact') {
      throw invalidArgument('timeEmbedding', "'reference' or 'exact'", o.timeEmbedding);
    }
    const common = nativeLoadOptions(o);
    const options = {
      ...common,
      blockWeights: o.blockWeights ?? requestedBlockWeights(o),
      cudaGraphs: o.cudaGraphs ?? false,
      timeEmbedding: o.timeEmbedding ?? 'reference',
      keepModulation: o.keepModulation ?? true,
      ropeAxes:
        (axes as typeof o.ropeAxes) ??
        (await readTransformerConfig(path, { signal: o.signal })).settings.ropeAxes,
    };
    const { handle, config } = await runNative(
      (binding, job) => binding.loadTransformer(path, options, job),
      loadJob(o),
    );
    return new FluxTransformer(OURS, handle, config, options.device);
  }

  /**
   * Reads and packs the weights that no pass has used yet, which the first pass would do otherwise. Blocks that were
   * prepared before an abort stay prepared. On a GPU loading has done it.
   * @param given.onProgress called after every block
   * @throws ERR_JITFLUX_OUT_OF_MEMORY, ERR_JITFLUX_WEIGHTS_CHANGED, ERR_JITFLUX_DISPOSED, ERR_JITFLUX_ABORTED (within one
   *   block)
   */
  async prepare(
    given: {
      signal?: AbortSignal | undefined;
      onProgress?: ((p: { block: number; blocks: number }) => void) | undefined;
    } = {},
  ): Promise<void> {
    const { signal, onProgress } = readOptions(given, { signal: true, onProgress: true });
    checkCallback('onProgress', onProgress);
    const model = this.handle;
    await this.runJob((binding, job) => binding.prepareTransformer(model, job), {
      signal,
      progress: onProgress && ((block, blocks) => onProgress({ block, blocks })),
    });
  }

  /**
   * Computes everything that depends only on sigma, guidance and the prompt, for all steps at once.
   * @param given.prompt text tokens (T5), [B, T, textDim], on any device
   * @param given.pooled pooled prompt (CLIP), [B, pooledDim]
   * @param given.guidance one for all images or one each, >= 0; default 3.5; ignored by models without guidance embedder
   * @param given.sigmas noise levels of the steps, each from 0 to 1
   */
  async condition(given: {
    prompt: Tensor;
    pooled: Tensor;
    guidance?: number | number[] | undefined;
    sigmas: number[];
    signal?: AbortSignal | undefined;
  }): Promise<Conditioning> {
    const c = readFields(given, 'options', CONDITION);
    const guidance = oneOrEach('guidance', c.guidance ?? DEFAULT_GUIDANCE);
    for (const value of guidance) {
      if (!Number.isFinite(value) || value < 0) {
        throw invalidArgument('guidance', 'a finite number >= 0', value);
      }
    }
    const sigmas = readList(c.sigmas, 'sigmas', `a list of 1 to ${MOST} numbers from 0 to 1`, [1, MOST]);
    for (const sigma of sigmas) {
      if (!(Number.isFinite(sigma) && sigma >= 0 && sigma <= 1)) {
        throw invalidArgument('sigmas', 'values from 0 to 1', sigma);
      }
    }
    handleOf(c.prompt, 'prompt');
    handleOf(c.pooled, 'pooled');
    const images = c.prompt.shape?.[0] ?? 0;
    const o = {
      transformer: this.handle,
      guidance: Float64Array.from(guidance),
      sigmas: Float64Array.from(sigmas),
    };
    const handle = await Tensor.on(this.#device, [c.prompt, c.pooled], ([prompt, pooled]) =>
      this.runJob((binding, job) => binding.condition({ ...o, prompt, pooled }, job), { signal: c.signal }),
    );
    return conditioningOf(handle, images, o.sigmas.length);
  }

  /**
   * Velocity (noise minus data) at the given tokens.
   * @param given.tokens packed latents of these tokens, [B, M, inChannels] float32
   * @param given.latents or packed latents of the whole grid, [B, N, inChannels]: the tokens are taken out at the anchors
   * @param given.anchors grid indices of the tokens, [M], or [B*M] with one list per image, in any order; absent: all
   *   tokens of the grid in order
   * @param given.perImage with `latents`: `anchors` holds one list per image. Default false
   * @param given.step index into the conditioning's sigmas, or one per image
   * @param given.onProgress called between blocks; on a GPU while they are queued, which is ahead of their computation
   * @returns [B, M, outChannels] float32
   * @throws ERR_JITFLUX_INVALID_ANCHORS, ERR_JITFLUX_INVALID_TENSOR, ERR_JITFLUX_INVALID_ARGUMENT,
   *   ERR_JITFLUX_DISPOSED, ERR_JITFLUX_ABORTED (within one block, on a GPU within this call)
   */
  async forward(
    given: ({ tokens: Tensor } | { latents: Tensor; perImage?: boolean | undefined }) & {
      anchors?: Int32Array | undefined;
      grid: Grid;
      conditioning: Conditioning;
      step: number | number[];
      signal?: AbortSignal | undefined;
      onProgress?: ((p: { block: number; blocks: number }) => void) | undefined;
    },
  ): Promise<Tensor> {
    const i = readFields<ForwardRequest>(given, 'options', FORWARD);
    checkCallback('onProgress', i.onProgress);
    const prepared = handleOf(i.conditioning, 'conditioning', 'a Conditioning');
    const steps = oneOrEach('step', i.step);
    for (const step of steps) {
      if (!Number.isInteger(step) || step < 0 || step >= i.conditioning.steps) {
        throw invalidArgument('step', `an integer from 0 to ${i.conditioning.steps - 1}`, step);
      }
    }
    const o = {
      transformer: this.handle,
      conditioning: prepared,
      ...('latents' in i && i.latents !== undefined
        ? { latents: handleOf(i.latents, 'latents'), perImage: i.perImage ?? false }
        : { tokens: handleOf((i as { tokens: Tensor }).tokens, 'tokens') }),
      anchors: i.anchors,
      grid: readGrid(i.grid),
      step: Int32Array.from(steps),
    };
    const { onProgress } = i;
    return tensorOf(
      await this.runJob((binding, job) => binding.forward(o, job), {
        signal: i.signal,
        progress: onProgress && ((block, blocks) => onProgress({ block, blocks })),
      }),
    );
  }

  /** @internal See {@link VelocityModel.advance}. */
  async advance(given: AdvanceRequest, conditioning: Conditioning): Promise<Tensor> {
    const i = readFields(given, 'options', ADVANCE);
    const { anchors, perImage, dSigma } = i;
    const o = {
      transformer: this.handle,
      conditioning: handleOf(conditioning, 'conditioning', 'a Conditioning'),
      latents: handleOf(i.latents, 'latents'),
      anchors,
      perImage,
      grid: readGrid(i.grid),
      step: Int32Array.of(checkInteger('step', i.step, 0, conditioning.steps - 1)),
      dSigma: checkFloat('dSigma', dSigma),
    };
    return tensorOf(await this.runJob((binding, job) => binding.advance(o, job), { signal: i.signal }));
  }

  /** With `weightStreaming`: what it cost since the last call. Undefined otherwise. */
  async transferStatistics(): Promise<TransferStatistics | undefined> {
    const model = this.handle;
    const found = await this.runJob((binding, job) => binding.transferStatistics(model, job));
    if (found === undefined) return undefined;
    const { copyMilliseconds, stallMilliseconds } = found;
    const hidden = Math.max(0, copyMilliseconds - stallMilliseconds);
    return { ...found, overlap: hidden / copyMilliseconds };
  }

  /**
   * This model at a fixed conditioning, as the sampler wants it; step i of the run uses the i-th sigma. The sampler
   * prefers its `advance` to its `velocity`: wrap it as `{ ...model.bind(c), velocity }` to put a velocity of your own in.
   */
  bind(conditioning: Conditioning): VelocityModel<Tensor> {
    handleOf(conditioning, 'conditioning', 'a Conditioning');
    return new BoundTransformer(this, conditioning);
  }
}

type ForwardRequest = Parameters<FluxTransformer['forward']>[0];

const CONDITION: Names<Parameters<FluxTransformer['condition']>[0]> = {
  prompt: true,
  pooled: true,
  guidance: true,
  sigmas: true,
  signal: true,
};
const FORWARD: Names<ForwardRequest> = {
  tokens: true,
  latents: true,
  perImage: true,
  anchors: true,
  grid: true,
  conditioning: true,
  step: true,
  signal: true,
  onProgress: true,
};
type VelocityRequest = Parameters<VelocityModel<Tensor>['velocity']>[0];
type AdvanceRequest = Parameters<NonNullable<VelocityModel<Tensor>['advance']>>[0];

const VELOCITY: Names<VelocityRequest> = {
  tokens: true,
  anchors: true,
  grid: true,
  step: true,
  sigma: true,
  signal: true,
};
const ADVANCE: Names<AdvanceRequest> = {
  latents: true,
  anchors: true,
  perImage: true,
  grid: true,
  step: true,
  sigma: true,
  dSigma: true,
  signal: true,
};

/** Most values of a list: of images, or of steps. */
const MOST = 1 << 20;

/** One value for all images, or one each. */
function oneOrEach(option: string, value: number | number[]): number[] {
  return isArray(value) ? readList(value, option, 'a number, or one per image,', [1, MOST]) : [value];
}

/**
 * `velocity` is a property and `advance` is not, so that `{ ...model.bind(c), velocity: mine }` has no `advance`, which
 * would pass by the velocity of one's own. Frozen: an assigned one would be passed by, too.
 */
class BoundTransformer implements VelocityModel<Tensor> {
  readonly velocity: (i: VelocityRequest) => Promise<Tensor>;
  readonly #model: FluxTransformer;
  readonly #conditioning: Conditioning;

  constructor(model: FluxTransformer, conditioning: Conditioning) {
    this.#model = model;
    this.#conditioning = conditioning;
    this.velocity = async (i) => {
      const { tokens, anchors, grid, step, signal } = readFields(i, 'options', VELOCITY);
      return model.forward({
        tokens,
        grid,
        conditioning,
        step,
        ...(anchors !== undefined && { anchors }),
        ...(signal !== undefined && { signal }),
      });
    };
    Object.freeze(this);
  }

  advance(i: AdvanceRequest): Promise<Tensor> {
    return this.#model.advance(i, this.#conditioning);
  }
}

/**
 * What streaming the weights took since the last time it was asked for.
 */
export interface TransferStatistics {
  /** Copied to the GPU. */
  bytes: number;
  /** Time of the copies, by the GPU's clock. */
  copyMilliseconds: number;
  /** Time for which the computation waited for them. */
  stallMilliseconds: number;
  /** Share of the copies that was hidden behind the computation, 0 to 1; NaN if nothing was copied. */
  overlap: number;
}

/** FLUX.1-dev's usual guidance. */
export const DEFAULT_GUIDANCE = 3.5;
