import { checkPath, OURS, readOptions } from '../arguments.js';
import type { ClipHandle } from './binding.js';
import { runNative } from './call.js';
import type { ClipConfig, LoadOptions } from '../types.js';
import { checkClipSettings, type ClipSettings, readClipConfig } from './component-config.js';
import { loadJob, nativeLoadOptions, readLoadOptions } from './load-options.js';
import { Tensor, tensorOf } from './tensor.js';
import { NativeModel } from './native-model.js';
import { handleOf } from './native-object.js';

/**
 * CLIP's text encoder (transformers' `CLIPTextModel`), which gives FLUX its pooled prompt. Causal attention and no
 * padding mask, as FLUX runs it; no projection.
 */
export class ClipTextEncoder extends NativeModel<ClipHandle> {
  /** Inferred from the tensors; heads and end of text from config.json. */
  readonly config: Readonly<ClipConfig>;

  private constructor(key: typeof OURS, handle: ClipHandle, config: ClipConfig) {
    super(key, handle, 'CLIP text encoder');
    this.config = Object.freeze(config);
  }

  /**
   * Loads a weight file, a safetensors index, or a directory that holds one of them (`text_encoder/` of a FLUX
   * snapshot). Hugging Face names, with or without `text_model.` or another prefix; code in archives is never run.
   *
   * Shapes do not tell the number of heads, the norms' epsilon and the id that ends a text: they come from a
   * `config.json` (or `<name>.config.json`) beside the weights, or are those of CLIP-L (heads of 64, 1e-5, and 2, which
   * means "the largest id").
   *
   * Matrices that the file holds in the compute type stay in its mapping: replace the file by renaming only.
   *
   * @param given.settings takes the place of the config.json
   * @throws ERR_JITFLUX_FILE_NOT_FOUND, ERR_JITFLUX_UNSUPPORTED_FORMAT, ERR_JITFLUX_CORRUPT_FILE,
   *   ERR_JITFLUX_UNSAFE_FILE, ERR_JITFLUX_WEIGHTS_MISMATCH (all missing, unexpected, misshaped and mistyped names),
   *   ERR_JITFLUX_INVALID_MODEL (config.json), ERR_JITFLUX_DEVICE_UNAVAILABLE, ERR_JITFLUX_ABORTED
   */
  static async load(
    path: string,
    given: LoadOptions & { settings?: ClipSettings | undefined } = {},
  ): Promise<ClipTextEncoder> {
    const o = readLoadOptions(given, { settings: true });
    checkPath('path', path);
    const common = nativeLoadOptions(o);
    const { heads, eps, eosTokenId } =
      o.settings === undefined
        ? (await readClipConfig(path, { signal: o.signal })).settings
        : checkClipSettings(o.settings);
    const options = { ...common, heads, eps, eosTokenId };
    const { handle, config } = await runNative(
      (binding, job) => binding.loadClipTextEncoder(path, options, job),
      loadJob(o),
    );
    return new ClipTextEncoder(OURS, handle, config);
  }

  /**
   * @param ids token ids on the CPU, [B, T] int64, T up to `config.maxTokens`; FLUX pads to 77
   * @returns float32: `pooled`, the final state at the end of text, of shape [B, width]; `hidden`, all final states,
   *   [B, T, width]
   * @throws ERR_JITFLUX_INVALID_TENSOR (dtype, shape, too long, an id outside the vocabulary), ERR_JITFLUX_DISPOSED,
   *   ERR_JITFLUX_ABORTED (within one layer)
   */
  async encode(
    ids: Tensor,
    o: { signal?: AbortSignal | undefined } = {},
  ): Promise<{ pooled: Tensor; hidden: Tensor }> {
    const { signal } = readOptions(o, { signal: true });
    const [encoder, tokens] = [this.handle, handleOf(ids, 'ids')];
    const { pooled, hidden } = await this.runJob((binding, job) => binding.encodeClip(encoder, tokens, job), {
      signal,
    });
    return { pooled: tensorOf(pooled), hidden: tensorOf(hidden) };
  }
}
