/** Latents to pixels, whatever a model's decoder is. */
import { ERROR_CODES, JitFluxError, throwIfAborted } from '../errors.js';
import { Autoencoder, latentOps, type Tensor, TorchScriptModule } from '../engine/index.js';
import type { Device, Grid, LoadOptions } from '../types.js';
import { componentOptions, decoderPlacement, moduleOptions } from '../model/component-options.js';
import type { ModelInfo, ModelWithFiles } from '../model/spec.js';
import { onDevice, Resources, sameShape } from './resources.js';

/** A model's decoder. */
export interface LatentDecoder {
  /**
   * @param tokens packed latents, [images, rows * cols, channels * 4]
   * @returns RGB bytes, picture after picture
   */
  decode(tokens: Tensor, o: { grid: Grid; signal: AbortSignal }): Promise<Uint8Array>;
  dispose(): void;
}

/**
 * Loads the decoder of a model.
 * @throws what `Autoencoder.load` and `TorchScriptModule.load` throw; ERR_JITFLUX_INVALID_MODEL if the weights are not
 *   what the model's settings say
 */
export async function loadLatentDecoder(
  source: ModelWithFiles,
  options: LoadOptions,
): Promise<LatentDecoder> {
  const placement = decoderPlacement(options, source.decoder);
  const o = componentOptions(options, placement);
  const load = () => loadPictureModel(source, o);
  if (options.keepDecoder !== false) return new PackedDecoder(source.info, placement.device, await load());
  // Loaded once to see that it can be.
  (await load()).dispose();
  const later = { ...o };
  delete later.onProgress;
  return new PackedDecoder(source.info, placement.device, {
    decode: async (latents, signal) => {
      const model = await loadPictureModel(source, { ...later, signal });
      try {
        return await model.decode(latents, signal);
      } finally {
        model.dispose();
      }
    },
    dispose: () => undefined,
  });
}

async function loadPictureModel({ decoder, info }: ModelWithFiles, o: LoadOptions): Promise<PictureModel> {
  const { path } = decoder.weights;
  if (decoder.kind === 'torchscript') {
    const module = await TorchScriptModule.load(path, moduleOptions(o));
    return {
      decode: async (latents, signal) => {
        const [picture, ...rest] = await module.run([latents], { signal });
        for (const other of rest) other.dispose();
        return picture;
      },
      dispose: () => module.dispose(),
    };
  }
  const autoencoder = await Autoencoder.load(path, { ...o, settings: decoder.settings });
  const { latentChannels, spatialFactor } = autoencoder.config;
  const { channels, spatialFactor: expected } = info.decoder;
  if (latentChannels !== channels || spatialFactor !== expected) {
    autoencoder.dispose();
    throw new JitFluxError(
      ERROR_CODES.INVALID_MODEL,
      `The autoencoder ${path} has ${latentChannels} latent channels of ${spatialFactor} pixels; ` +
        `its config.json says ${channels} of ${expected}`,
      { path },
    );
  }
  return {
    decode: (latents, signal) => autoencoder.decode(latents, { signal }),
    dispose: () => autoencoder.dispose(),
  };
}

/** What differs between decoders: un-scaled latents [B, C, h, w] to pictures [B, 3, H, W] in [-1, 1]. */
interface PictureModel {
  decode(latents: Tensor, signal: AbortSignal): Promise<Tensor | undefined>;
  dispose(): void;
}

class PackedDecoder implements LatentDecoder {
  readonly #info: ModelInfo;
  readonly #device: Device;
  readonly #model: PictureModel;

  constructor(info: ModelInfo, device: Device, model: PictureModel) {
    this.#info = info;
    this.#device = device;
    this.#model = model;
  }

  async decode(tokens: Tensor, { grid, signal }: { grid: Grid; signal: AbortSignal }): Promise<Uint8Array> {
    const { scalingFactor: scale, shiftFactor: shift, spatialFactor } = this.#info.decoder;
    using resources = new Resources();
    const here = await onDevice(tokens, this.#device, resources);
    const latents = resources.add(await latentOps.unpack(here, grid, { scale, shift }));
    throwIfAborted(signal);
    const picture = await this.#model.decode(latents, signal);
    if (picture) resources.add(picture);
    const expected = [tokens.shape[0] ?? 0, 3, grid[0] * 2 * spatialFactor, grid[1] * 2 * spatialFactor];
    if (!picture || !sameShape(picture.shape, expected)) {
      throw new JitFluxError(
        ERROR_CODES.INVALID_MODEL,
        `The decoder of ${this.#info.name} returned [${picture?.shape.join(', ')}] instead of [${expected.join(', ')}]`,
      );
    }
    return latentOps.toImage(picture);
  }

  dispose(): void {
    this.#model.dispose();
  }
}
