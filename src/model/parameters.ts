/** Parameters of a FLUX.1 model's components, by their architecture. */
import type { AutoencoderConfig, ClipConfig, FluxConfig, T5Config } from '../types.js';

/** What of an architecture decides the number of parameters. */
export type ClipShape = Pick<ClipConfig, 'vocabulary' | 'maxTokens' | 'width' | 'mlpWidth' | 'layers'>;
export type T5Shape = Pick<
  T5Config,
  'vocabulary' | 'width' | 'heads' | 'headDim' | 'mlpWidth' | 'layers' | 'positionBuckets'
>;
export type AutoencoderShape = Pick<AutoencoderConfig, 'latentChannels' | 'channels' | 'layersPerBlock'>;

const linear = (inputs: number, outputs: number) => (inputs + 1) * outputs;

/** Parameters of a FLUX transformer: 11,901,408,320 for FLUX.1-dev. */
export function transformerParameters(c: FluxConfig): number {
  const d = c.hiddenSize;
  const mlp = Math.round(c.mlpRatio * d);
  const embedder = (inputs: number) => linear(inputs, d) + linear(d, d);
  const double =
    2 * linear(d, 6 * d) + 8 * linear(d, d) + 4 * c.headDim + 2 * (linear(d, mlp) + linear(mlp, d));
  const single = linear(d, 3 * d) + 3 * linear(d, d) + linear(d, mlp) + linear(d + mlp, d) + 2 * c.headDim;
  return (
    linear(c.inChannels, d) +
    linear(c.textDim, d) +
    (c.guidance ? 2 : 1) * embedder(256) +
    embedder(c.pooledDim) +
    c.doubleBlocks * double +
    c.singleBlocks * single +
    linear(d, 2 * d) +
    linear(d, c.outChannels)
  );
}

/**
 * Parameters of a FLUX transformer that are copied even if the file holds the compute type: what is fused into one
 * matrix, q, k and v of double blocks, and with the MLP's input of single blocks.
 */
export function fusedParameters(c: FluxConfig): number {
  const d = c.hiddenSize;
  const mlp = Math.round(c.mlpRatio * d);
  return c.doubleBlocks * 2 * linear(d, 3 * d) + c.singleBlocks * linear(d, 3 * d + mlp);
}

/** Parameters of a FLUX transformer's block layers, whose weights can be packed or quantised. */
export function blockParameters(c: FluxConfig): number {
  const d = c.hiddenSize;
  const mlp = Math.round(c.mlpRatio * d);
  const stream = linear(d, 3 * d) + linear(d, d) + linear(d, mlp) + linear(mlp, d);
  return c.doubleBlocks * 2 * stream + c.singleBlocks * (linear(d, 3 * d + mlp) + linear(d + mlp, d));
}

/** Parameters of a FLUX transformer's adaptive norms. */
export function modulationParameters(c: FluxConfig): number {
  const d = c.hiddenSize;
  return c.doubleBlocks * 2 * linear(d, 6 * d) + c.singleBlocks * linear(d, 3 * d) + linear(d, 2 * d);
}

/** Parameters of a CLIP text encoder: 123,060,480 for CLIP-L. */
export function clipParameters(c: ClipShape): number {
  const layer =
    4 * linear(c.width, c.width) + linear(c.width, c.mlpWidth) + linear(c.mlpWidth, c.width) + 4 * c.width;
  return (c.vocabulary + c.maxTokens) * c.width + c.layers * layer + 2 * c.width;
}

/** Parameters of a T5 encoder: 4,762,310,656 for T5-XXL. */
export function t5Parameters(c: T5Shape): number {
  const inner = c.heads * c.headDim;
  const layer = 4 * c.width * inner + 3 * c.width * c.mlpWidth + 2 * c.width;
  return c.vocabulary * c.width + c.layers * layer + c.positionBuckets * c.heads + c.width;
}

/** Parameters of an autoencoder, encoder and decoder: 83,819,683 for FLUX.1's. */
export function vaeParameters(c: AutoencoderShape): number {
  const conv = (inputs: number, outputs: number) => (9 * inputs + 1) * outputs;
  const norm = (channels: number) => 2 * channels;
  const residual = (inputs: number, outputs: number) =>
    norm(inputs) +
    conv(inputs, outputs) +
    norm(outputs) +
    conv(outputs, outputs) +
    (inputs === outputs ? 0 : linear(inputs, outputs));
  const { channels } = c;
  const first = channels[0] ?? 0;
  const top = channels.at(-1) ?? 0;
  const middle = 2 * residual(top, top) + norm(top) + 4 * linear(top, top);
  const network = (levels: readonly number[], blocks: number, input: number) => {
    let count = 0;
    let width = input;
    levels.forEach((out, level) => {
      for (let i = 0; i < blocks; i++) {
        count += residual(width, out);
        width = out;
      }
      if (level < levels.length - 1) count += conv(out, out);
    });
    return count;
  };
  const encoder =
    conv(3, first) +
    network(channels, c.layersPerBlock, first) +
    middle +
    norm(top) +
    conv(top, 2 * c.latentChannels);
  const decoder =
    conv(c.latentChannels, top) +
    middle +
    network([...channels].reverse(), c.layersPerBlock + 1, top) +
    norm(first) +
    conv(first, 3);
  return encoder + decoder;
}
