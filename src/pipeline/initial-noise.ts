/** The noise from which a picture starts. */
import { checkInteger, isArray, type Names, reading, readOptions } from '../arguments.js';
import { latentOps, Tensor } from '../engine/index.js';
import { MAX_IMAGES, resolveSize } from '../model/run.js';
import type { ModelInfo } from '../model/spec.js';
import { imageSeeds, readSeeds } from '../sampler/random.js';
import type { Device, Grid } from '../types.js';

/** Options of {@link initialNoise}. */
export interface InitialNoiseOptions {
  /** Pixels. Default: the model's. */
  width?: number | undefined;
  height?: number | undefined;
  /** As in a request: image b has seed + b, or one seed per image. */
  seed: number | bigint | readonly (number | bigint)[];
  /** How many, 1 to 64. Default: 1, or as many as there are seeds. */
  images?: number | undefined;
  /** Default `'cpu'`. */
  device?: Device | undefined;
}

const OPTIONS: Names<InitialNoiseOptions> = {
  width: true,
  height: true,
  seed: true,
  images: true,
  device: true,
};

/**
 * The initial noise of a request with this size and seed, packed [images, tokens, channels] float32: what `generate` starts
 * from unless it is given `latents`. Drawn as [1, channels, height, width] for every image from its own seed, bit-equal to
 * `torch.Generator('cpu')`, and packed afterwards, as diffusers does it; drawn in its packed shape it would be other noise.
 * @param model `pipeline.model`, or `info` of a ModelSpec
 * @returns a new tensor, which the caller disposes
 * @throws (rejects) ERR_JITFLUX_INVALID_ARGUMENT
 */
export async function initialNoise(model: ModelInfo, o: InitialNoiseOptions): Promise<Tensor> {
  const { seed, images, device = 'cpu', ...size } = readOptions(o, OPTIONS);
  const seeds = seedsOf(seed, images);
  const { name, decoder, defaults } = readModel(model);
  const { grid } = resolveSize(size, { name, decoder, defaults });
  return noiseOf({ decoder }, { grid, seeds, device });
}

/** What of a model decides its noise. */
function readModel(model: ModelInfo) {
  const given = reading('model', () => ({
    name: String(model.name),
    width: model.defaults.width,
    height: model.defaults.height,
    channels: model.decoder.channels,
    spatialFactor: model.decoder.spatialFactor,
  }));
  const { name, width, height } = given;
  const channels = checkInteger('model.decoder.channels', given.channels, 1, MOST_CHANNELS);
  const spatialFactor = checkInteger('model.decoder.spatialFactor', given.spatialFactor, 1, MOST_PIXELS);
  return { name, decoder: { channels, spatialFactor }, defaults: { width, height } };
}

/** Far beyond any autoencoder: FLUX.1's has 16 channels of 8 pixels a side. */
const MOST_CHANNELS = 4096;
const MOST_PIXELS = 256;

/** Seeds of the images, from one or a list. */
function seedsOf(seed: InitialNoiseOptions['seed'], images: number | undefined): bigint[] {
  const count = images === undefined ? undefined : checkInteger('images', images, 1, MAX_IMAGES);
  if (!isArray(seed)) return imageSeeds(seed, count ?? 1);
  const range = [count ?? 1, count ?? MAX_IMAGES] as const;
  return readSeeds(seed, `a seed, or a list of ${range.join(' to ')} seeds`, range);
}

/** {@link initialNoise} of what has been checked. */
export async function noiseOf(
  { decoder }: { decoder: { channels: number } },
  { grid, seeds, device }: { grid: Grid; seeds: readonly bigint[]; device: Device },
): Promise<Tensor> {
  const shape = [seeds.length, decoder.channels, grid[0] * 2, grid[1] * 2];
  using noise = Tensor.randn(shape, { seed: seeds, device });
  return await latentOps.pack(noise);
}
