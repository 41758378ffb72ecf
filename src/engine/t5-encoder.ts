import { checkPath, OURS, readOptions } from '../arguments.js';
import { invalidArgument } from '../errors.js';
import type { T5Handle } from './binding.js';
import { runNative } from './call.js';
import type { LoadOptions, T5Config } from '../types.js';
import { checkT5Settings, readT5Config, type T5Settings } from './component-config.js';
import { loadJob, nativeLoadOptions, readLoadOptions } from './load-options.js';
import { Tensor, tensorOf } from './tensor.js';
import { NativeModel } from './native-model.js';
import { handleOf } from './native-object.js';

/**
 * The encoder of T5 v1.1 (transformers' `T5EncoderModel`), which gives FLUX its text tokens. Padding is attended, as
 * FLUX runs it: another length of the padded prompt gives another picture.
 */
export class T5Encoder extends NativeModel<T5Handle> {
  /** Inferred from the tensors. */
  readonly config: Readonly<T5Config>;

  private constructor(key: typeof OURS, handle: T5Handle, config: T5Config) {
    super(key, handle, 'T5 encoder');
    this.config = Object.freeze(config);
  }

  /**
   * Loads a weight file, a safetensors index, or a directory that holds one of them (`text_encoder_2/` of a FLUX
   * snapshot). Hugging Face names, below any prefix; the embedding is `shared.weight` or `encoder.embed_tokens.weight`,
   * and the decoder of a whole T5 is left alone. Code in archives is never run.
   *
   * The bias' largest distance and the norms' epsilon come from a `config.json` (or `<name>.config.json`) beside the
   * weights, or are those of T5 (128, 1e-6).
   *
   * Matrices that the file holds in the compute type stay in its mapping, so that loading a bfloat16 T5-XXL with
   * `dtype: 'bfloat16'` copies nothing: replace the file by renaming only. In bfloat16 the residual stream, the norms'
   * statistics and the softmax are float32.
   *
   * With `quantize: 'int8'` the blocks' matrices are read and quantised instead (per output channel; activations per
   * token): half of bfloat16's memory, this process' own.
   *
   * @param given.settings takes the place of the config.json
   * @throws ERR_JITFLUX_FILE_NOT_FOUND, ERR_JITFLUX_UNSUPPORTED_FORMAT, ERR_JITFLUX_CORRUPT_FILE,
   *   ERR_JITFLUX_UNSAFE_FILE, ERR_JITFLUX_WEIGHTS_MISMATCH (all missing, unexpected, misshaped and mistyped names),
   *   ERR_JITFLUX_INVALID_MODEL (config.json), ERR_JITFLUX_DEVICE_UNAVAILABLE, ERR_JITFLUX_ABORTED
   */
  static async load(
    path: string,
    given: LoadOptions & { settings?: T5Settings | undefined } = {},
  ): Promise<T5Encoder> {
    const o = readLoadOptions(given, { settings: true });
    checkPath('path', path);
    if (o.dtype === 'float16') {
      throw invalidArgument('dtype', "'float32' or 'bfloat16' (T5's states outgrow float16)", o.dtype);
    }
    const common = nativeLoadOptions(o);
    const { maxDistance, eps } =
      o.settings === undefined
        ? (await readT5Config(path, { signal: o.signal })).settings
        : checkT5Settings(o.settings);
    const options = { ...common, maxDistance, eps, int8: o.quantize === 'int8' };
    const { handle, config } = await runNative(
      (binding, job) => binding.loadT5Encoder(path, options, job),
      loadJob(o),
    );
    return new T5Encoder(OURS, handle, config);
  }

  /**
   * @param ids token ids on the CPU, [B, T] int64, T up to 512; FLUX.1-dev pads to 512, schnell to 256
   * @returns [B, T, width] float32
   * @throws ERR_JITFLUX_INVALID_TENSOR (dtype, shape, too long, an id outside the vocabulary), ERR_JITFLUX_DISPOSED,
   *   ERR_JITFLUX_ABORTED (within one block)
   */
  async encode(ids: Tensor, o: { signal?: AbortSignal | undefined } = {}): Promise<Tensor> {
    const { signal } = readOptions(o, { signal: true });
    const [encoder, tokens] = [this.handle, handleOf(ids, 'ids')];
    return tensorOf(await this.runJob((binding, job) => binding.encodeT5(encoder, tokens, job), { signal }));
  }
}
