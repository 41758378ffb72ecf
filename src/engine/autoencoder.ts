import { checkCallback, checkPath, type Names, OURS, readFields, readOptions } from '../arguments.js';
import { invalidArgument } from '../errors.js';
import type { AutoencoderHandle, NativeTiling } from './binding.js';
import { callNative, runNative } from './call.js';
import type { AutoencoderConfig, DecodeOptions, LoadOptions } from '../types.js';
import {
  checkAutoencoderSettings,
  type AutoencoderSettings,
  readAutoencoderConfig,
} from './component-config.js';
import { loadJob, nativeLoadOptions, readLoadOptions } from './load-options.js';
import { Tensor, tensorOf } from './tensor.js';
import { NativeModel } from './native-model.js';
import { handleOf } from './native-object.js';

/** Memory for the activations of a decode above which it is tiled: room for 1024x1024 in float32. */
export const DEFAULT_DECODE_BUDGET_BYTES = 2 * 1024 ** 3;

/** FLUX's autoencoder (diffusers' `AutoencoderKL`): pictures from latents and latents from pictures. */
export class Autoencoder extends NativeModel<AutoencoderHandle> {
  /** Inferred from the tensors; norm groups, scaling and shift from config.json. */
  readonly config: Readonly<AutoencoderConfig>;
  readonly #device: number;

  private constructor(
    key: typeof OURS,
    handle: AutoencoderHandle,
    config: AutoencoderConfig,
    device: number,
  ) {
    super(key, handle, 'autoencoder');
    this.config = Object.freeze(config);
    this.#device = device;
  }

  /**
   * Loads a weight file, a safetensors index, or a directory that holds one of them (`vae/` of a FLUX snapshot, or the
   * original `ae.safetensors`). Names of diffusers or of the original, below any prefix; the encoder may be absent.
   * Code in archives is never run.
   *
   * Norm groups, scaling and shift come from a `config.json` (or `<name>.config.json`) beside the weights, or are
   * FLUX's (32, 0.3611, 0.1159).
   *
   * @param given.settings takes the place of the config.json
   * @throws ERR_JITFLUX_FILE_NOT_FOUND, ERR_JITFLUX_UNSUPPORTED_FORMAT, ERR_JITFLUX_CORRUPT_FILE,
   *   ERR_JITFLUX_UNSAFE_FILE, ERR_JITFLUX_WEIGHTS_MISMATCH (all missing, unexpected, misshaped and mistyped names),
   *   ERR_JITFLUX_INVALID_MODEL (config.json), ERR_JITFLUX_DEVICE_UNAVAILABLE, ERR_JITFLUX_ABORTED
   */
  static async load(
    path: string,
    given: LoadOptions & { settings?: AutoencoderSettings | undefined } = {},
  ): Promise<Autoencoder> {
    const o = readLoadOptions(given, { settings: true });
    checkPath('path', path);
    const common = nativeLoadOptions(o);
    const { normGroups, scalingFactor, shiftFactor } =
      o.settings === undefined
        ? (await readAutoencoderConfig(path, { signal: o.signal })).settings
        : checkAutoencoderSettings(o.settings);
    const options = { ...common, normGroups, eps: 1e-6 };
    const { handle, config } = await runNative(
      (binding, job) => binding.loadAutoencoder(path, options, job),
      loadJob(o),
    );
    return new Autoencoder(OURS, handle, { ...config, scalingFactor, shiftFactor }, common.device);
  }

  /**
   * Pictures of latents. Pictures of a batch are decoded one after another and equal those decoded alone.
   *
   * Activations of one picture (in float32 about 1.5 GiB for 1024x1024, see docs/vae-memory.md) beyond
   * `memoryBudgetBytes` make the decode tiled: overlapping tiles, each blended linearly into its neighbours. That
   * changes the picture slightly, because group norms and attention then see one tile at a time.
   *
   * @param latents [B, latentChannels, h, w], on any device, un-scaled: `latent / scalingFactor + shiftFactor`
   * @returns [B, 3, h * spatialFactor, w * spatialFactor] float32, about -1 to 1, not clamped
   * @throws ERR_JITFLUX_INVALID_TENSOR, ERR_JITFLUX_INVALID_ARGUMENT (tiling), ERR_JITFLUX_DISPOSED,
   *   ERR_JITFLUX_ABORTED (within a fraction of a block)
   */
  async decode(latents: Tensor, given: DecodeOptions = {}): Promise<Tensor> {
    const { signal, onProgress, ...o } = readOptions(given, DECODE_OPTIONS);
    const autoencoder = this.handle;
    const tiling = nativeTiling(o);
    checkCallback('onProgress', onProgress);
    handleOf(latents, 'latents');
    const picture = await Tensor.on(this.#device, [latents], ([handle]) =>
      this.runJob((binding, job) => binding.decodeLatents(autoencoder, handle, tiling, job), {
        signal,
        progress: onProgress && ((done, total) => onProgress({ done, total })),
      }),
    );
    return tensorOf(picture);
  }

  /**
   * The distribution of a picture's latents. FLUX takes `(mean - shiftFactor) * scalingFactor`, or a sample.
   * @param pictures [B, 3, H, W], on any device, in [-1, 1], sides divisible by `config.spatialFactor`
   * @returns two tensors [B, latentChannels, H / spatialFactor, W / spatialFactor] float32; `logvar` is clamped to
   *   [-30, 20] as in diffusers
   * @throws ERR_JITFLUX_INVALID_TENSOR, ERR_JITFLUX_INVALID_ARGUMENT if the weights hold no encoder,
   *   ERR_JITFLUX_DISPOSED, ERR_JITFLUX_ABORTED
   */
  async encode(
    pictures: Tensor,
    o: { signal?: AbortSignal | undefined; onProgress?: DecodeOptions['onProgress'] } = {},
  ): Promise<{ mean: Tensor; logvar: Tensor }> {
    const { signal, onProgress } = readOptions(o, { signal: true, onProgress: true });
    checkCallback('onProgress', onProgress);
    const autoencoder = this.handle;
    handleOf(pictures, 'pictures');
    const { mean, logvar } = await Tensor.on(this.#device, [pictures], ([handle]) =>
      this.runJob((binding, job) => binding.encodePictures(autoencoder, handle, job), {
        signal,
        progress: onProgress && ((done, total) => onProgress({ done, total })),
      }),
    );
    return { mean: tensorOf(mean), logvar: tensorOf(logvar) };
  }

  /** Upper bound of the activations' memory when h x w latent cells are decoded without tiling. */
  decodeBytes(h: number, w: number): number {
    const handle = this.handle;
    return callNative((binding) => binding.decodeBytes(handle, h, w));
  }
}

const DECODE_OPTIONS: Names<DecodeOptions> = {
  tiling: true,
  memoryBudgetBytes: true,
  signal: true,
  onProgress: true,
};

function nativeTiling({
  tiling = 'auto',
  memoryBudgetBytes = DEFAULT_DECODE_BUDGET_BYTES,
}: Pick<DecodeOptions, 'tiling' | 'memoryBudgetBytes'>): NativeTiling {
  if (!Number.isSafeInteger(memoryBudgetBytes) || memoryBudgetBytes <= 0) {
    throw invalidArgument('memoryBudgetBytes', 'a positive integer', memoryBudgetBytes);
  }
  if (tiling === 'auto') return { mode: 'auto', memoryBudgetBytes };
  if (typeof tiling === 'boolean') return { mode: tiling ? 'always' : 'never', memoryBudgetBytes };
  const expected = "'auto', a boolean or { tileSize, overlap }";
  const { tileSize, overlap: given } = readFields(
    tiling,
    'tiling',
    { tileSize: true, overlap: true },
    expected,
  );
  if (!Number.isInteger(tileSize) || tileSize < 2 || tileSize > 65536) {
    throw invalidArgument('tiling.tileSize', 'an integer from 2 to 65536', tileSize);
  }
  const overlap = given ?? Math.floor(tileSize / 4);
  if (!Number.isInteger(overlap) || overlap < 0 || overlap > tileSize / 2) {
    throw invalidArgument('tiling.overlap', 'an integer from 0 to half the tile size', overlap);
  }
  return { mode: 'fixed', memoryBudgetBytes, tileSize, overlap };
}
