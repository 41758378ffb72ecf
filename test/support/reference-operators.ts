/**
 * The JiT operators in plain JavaScript, written for clarity: the oracle for the native operators, and the backend
 * that lets the sampler run without native code. Sums are in double precision.
 */

import { ERROR_CODES, JitFluxError } from '../../src/errors.js';
import { Random, type SamplerBackend } from '../../src/sampler/index.js';
import type { DType, Grid, JitOperators, TensorLike } from '../../src/types.js';

/** A float32 tensor in a JavaScript array. Counts its live instances, so that tests can find leaks. */
export class ArrayTensor implements TensorLike {
  static live = 0;

  readonly shape: readonly number[];
  readonly dtype: DType = 'float32';
  readonly #data: Float32Array;
  #disposed = false;

  constructor(data: Float32Array, shape: readonly number[]) {
    const size = shape.reduce((a, b) => a * b, 1);
    if (data.length !== size) throw new Error(`${data.length} values for shape [${shape.join(', ')}]`);
    this.#data = data;
    this.shape = shape;
    ArrayTensor.live++;
  }

  static zeros(shape: readonly number[]): ArrayTensor {
    return new ArrayTensor(new Float32Array(shape.reduce((a, b) => a * b, 1)), shape);
  }

  /** Standard normal numbers, deterministic, but not those of torch. Image b is drawn from seeds[b]. */
  static randn(shape: readonly number[], seeds: readonly bigint[]): ArrayTensor {
    const result = ArrayTensor.zeros(shape);
    const size = result.data.length / seeds.length;
    seeds.forEach((seed, b) => {
      const random = new Random(seed);
      for (let i = 0; i < size; i++) {
        const radius = Math.sqrt(-2 * Math.log(1 - random.next()));
        result.data[b * size + i] = radius * Math.cos(2 * Math.PI * random.next());
      }
    });
    return result;
  }

  /** The elements themselves, not a copy. */
  get data(): Float32Array {
    if (this.#disposed) throw new JitFluxError(ERROR_CODES.DISPOSED, 'The tensor has been disposed');
    return this.#data;
  }

  get disposed(): boolean {
    return this.#disposed;
  }

  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    ArrayTensor.live--;
  }

  clone(): this {
    return new ArrayTensor(this.data.slice(), [...this.shape]) as this;
  }

  async toFloat32Array(): Promise<Float32Array> {
    return this.data.slice();
  }
}

/** Parameters of the lifter's blur at a density (anchors / tokens). */
export function blurParameters(density: number): { sigma: number; kernelSize: number } {
  if (density === 1) return { sigma: 1, kernelSize: 3 };
  const sigma = Math.min(10, Math.max(1, 0.4 / Math.sqrt(density)));
  return { sigma, kernelSize: 2 * Math.ceil(3 * sigma) + 1 };
}

/** Normalised samples of a Gaussian at -half .. half. */
export function gaussianKernel(sigma: number, kernelSize: number): Float64Array {
  const half = (kernelSize - 1) / 2;
  const kernel = Float64Array.from({ length: kernelSize }, (_, i) =>
    Math.exp(-0.5 * ((i - half) / sigma) ** 2),
  );
  const sum = kernel.reduce((a, b) => a + b, 0);
  return kernel.map((w) => w / sum);
}

/** For every token, the position in the list of its nearest anchor; of equally near ones, the first in the list. */
export function nearestPositions(anchors: Int32Array, [rows, cols]: Grid): Int32Array {
  return Int32Array.from({ length: rows * cols }, (_, token) => {
    const row = Math.trunc(token / cols);
    const col = token % cols;
    let best = Infinity;
    let position = -1;
    anchors.forEach((anchor, p) => {
      const distance = (Math.trunc(anchor / cols) - row) ** 2 + ((anchor % cols) - col) ** 2;
      if (distance < best) {
        best = distance;
        position = p;
      }
    });
    return position;
  });
}

/** Index of a reflected position; the border is not repeated. Folds as often as necessary. */
export function reflect(i: number, size: number): number {
  if (size === 1) return 0;
  const period = 2 * (size - 1);
  const folded = ((i % period) + period) % period;
  return folded < size ? folded : period - folded;
}

/** Token lists of image b: a shared list, or the b-th part of a per-image one. */
function listOf(list: Int32Array, image: number, batch: number, perImage: boolean): Int32Array {
  if (!perImage) return list;
  const length = list.length / batch;
  if (!Number.isInteger(length)) throw new Error('A per-image list must be a multiple of the batch size');
  return list.subarray(image * length, (image + 1) * length);
}

/** Whether a list for tensors with `rows` rows per image is per image. */
function isPerImage(list: Int32Array, rows: number, batch: number): boolean {
  if (list.length === rows) return false;
  if (list.length === rows * batch) return true;
  throw new Error(`${list.length} tokens do not fit ${batch} x ${rows} rows`);
}

function sizes(t: ArrayTensor): [batch: number, tokens: number, channels: number] {
  return t.shape as unknown as [number, number, number];
}

function gather(latents: ArrayTensor, anchors: Int32Array, perImage: boolean): ArrayTensor {
  const [batch, tokens, channels] = sizes(latents);
  const count = perImage ? anchors.length / batch : anchors.length;
  const result = ArrayTensor.zeros([batch, count, channels]);
  for (let b = 0; b < batch; b++) {
    listOf(anchors, b, batch, perImage).forEach((token, m) => {
      const from = (b * tokens + token) * channels;
      result.data.set(latents.data.subarray(from, from + channels), (b * count + m) * channels);
    });
  }
  return result;
}

function lift(v: ArrayTensor, anchors: Int32Array, grid: Grid): ArrayTensor {
  const [rows, cols] = grid;
  const tokens = rows * cols;
  const [batch, count, channels] = sizes(v);
  const perImage = isPerImage(anchors, count, batch);
  const { sigma, kernelSize } = blurParameters(count / tokens);
  const kernel = gaussianKernel(sigma, kernelSize);
  const half = (kernelSize - 1) / 2;
  const result = ArrayTensor.zeros([batch, tokens, channels]);
  for (let b = 0; b < batch; b++) {
    const list = listOf(anchors, b, batch, perImage);
    const nearest = nearestPositions(list, grid);
    const value = (row: number, col: number, c: number) =>
      v.data[(b * count + nearest[row * cols + col]!) * channels + c]!;
    // Horizontal, then vertical pass over the nearest-anchor field.
    const horizontal = new Float64Array(tokens * channels);
    for (let r = 0; r < rows; r++) {
      for (let x = 0; x < cols; x++) {
        for (let c = 0; c < channels; c++) {
          let sum = 0;
          for (let k = -half; k <= half; k++) sum += kernel[k + half]! * value(r, reflect(x + k, cols), c);
          horizontal[(r * cols + x) * channels + c] = sum;
        }
      }
    }
    for (let r = 0; r < rows; r++) {
      for (let x = 0; x < cols; x++) {
        for (let c = 0; c < channels; c++) {
          let sum = 0;
          for (let k = -half; k <= half; k++) {
            sum += kernel[k + half]! * horizontal[(reflect(r + k, rows) * cols + x) * channels + c]!;
          }
          result.data[(b * tokens + r * cols + x) * channels + c] = sum;
        }
      }
    }
    list.forEach((token, m) => {
      const from = (b * count + m) * channels;
      result.data.set(v.data.subarray(from, from + channels), (b * tokens + token) * channels);
    });
  }
  return result;
}

function importance(velocity: ArrayTensor, [rows, cols]: Grid): Float32Array {
  const [batch, tokens, channels] = sizes(velocity);
  const result = new Float32Array(batch * tokens);
  for (let b = 0; b < batch; b++) {
    for (let r = 0; r < rows; r++) {
      for (let x = 0; x < cols; x++) {
        let variance = 0;
        for (let c = 0; c < channels; c++) {
          let sum = 0;
          let squares = 0;
          for (let i = Math.max(0, r - 1); i <= Math.min(rows - 1, r + 1); i++) {
            for (let j = Math.max(0, x - 1); j <= Math.min(cols - 1, x + 1); j++) {
              const v = velocity.data[(b * tokens + i * cols + j) * channels + c]!;
              sum += v;
              squares += v * v;
            }
          }
          variance += squares / 9 - (sum / 9) ** 2;
        }
        result[b * tokens + r * cols + x] = variance / channels;
      }
    }
  }
  return result;
}

function predictClean(latents: ArrayTensor, velocity: ArrayTensor, sigma: number): ArrayTensor {
  return new ArrayTensor(
    latents.data.map((x, i) => x - sigma * velocity.data[i]!),
    latents.shape,
  );
}

function microFlow(latents: ArrayTensor, o: Parameters<JitOperators<ArrayTensor>['microFlow']>[1]): void {
  const [batch, tokens, channels] = sizes(latents);
  const rows = o.target.shape[1]!;
  const full = rows === tokens && o.newTokens.length !== tokens * (o.perImage === true ? batch : 1);
  const perImage = full ? o.perImage === true : isPerImage(o.newTokens, rows, batch);
  for (let b = 0; b < batch; b++) {
    listOf(o.newTokens, b, batch, perImage).forEach((token, k) => {
      const source = (b * rows + (full ? token : k)) * channels;
      for (let c = 0; c < channels; c++) {
        const i = (b * tokens + token) * channels + c;
        const target = o.target.data[source + c]!;
        let y = latents.data[i]!;
        if (o.mode === 'relax') {
          y = o.steps <= 1 ? target : (1 - 1 / o.steps) * y + target / o.steps;
        } else {
          // The last of equal Euler sub-steps of dy/dt = (target - y) / (T - t) has weight 1.
          y = target;
        }
        latents.data[i] = y;
      }
    });
  }
}

/** Operators over {@link ArrayTensor}. */
export const referenceOperators: JitOperators<ArrayTensor> = {
  gather: async (latents, anchors, o) => gather(latents, anchors, o?.perImage === true),
  lift: async (v, anchors, grid) => lift(v, anchors, grid),

  async liftNearest(v, anchors, grid) {
    const [batch, count] = sizes(v);
    const perImage = isPerImage(anchors, count, batch);
    const lists = Array.from({ length: perImage ? batch : 1 }, (_, b) =>
      nearestPositions(listOf(anchors, b, batch, perImage), grid),
    );
    return gather(v, Int32Array.from(lists.flatMap((list) => [...list])), perImage);
  },

  importance: async (velocity, grid) => importance(velocity, grid),
  predictClean: async (latents, velocity, sigma) => predictClean(latents, velocity, sigma),
  microFlow: async (latents, o) => microFlow(latents, o),

  async microFlowTarget({ clean, noise, anchors, newTokens, sigma, grid, perImage = false }) {
    const known = gather(clean, anchors, perImage);
    const lifted = lift(known, anchors, grid);
    const target = gather(lifted, newTokens, perImage);
    const eps = gather(noise, newTokens, perImage);
    for (let i = 0; i < target.data.length; i++) {
      target.data[i] = (1 - sigma) * target.data[i]! + sigma * eps.data[i]!;
    }
    for (const tensor of [known, lifted, eps]) tensor.dispose();
    return target;
  },

  async step(latents, velocity, { anchors, grid, dSigma }) {
    const full = anchors === undefined ? velocity.clone() : lift(velocity, anchors, grid);
    for (let i = 0; i < full.data.length; i++) latents.data[i]! += dSigma * full.data[i]!;
    return full;
  },
};

/** The sampler's backend without native code. */
export const referenceBackend: SamplerBackend<ArrayTensor> = {
  operators: referenceOperators,
  randn: (shape, seeds) => ArrayTensor.randn(shape, seeds),
};

/** Packs [B, C, 2H, 2W] latents to tokens [B, H*W, 4C]; channel c*4 + dy*2 + dx. */
export function packLatents(data: Float32Array, shape: readonly number[]): ArrayTensor {
  const [batch, channels, height, width] = shape as [number, number, number, number];
  const [rows, cols] = [height / 2, width / 2];
  const result = ArrayTensor.zeros([batch, rows * cols, channels * 4]);
  let from = 0;
  for (let b = 0; b < batch; b++) {
    for (let c = 0; c < channels; c++) {
      for (let y = 0; y < height; y++) {
        for (let x = 0; x < width; x++) {
          const token = (y >> 1) * cols + (x >> 1);
          const channel = c * 4 + (y & 1) * 2 + (x & 1);
          result.data[(b * rows * cols + token) * channels * 4 + channel] = data[from++]!;
        }
      }
    }
  }
  return result;
}

/** Largest absolute difference. */
export function maxDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return Infinity;
  let max = 0;
  for (let i = 0; i < a.length; i++) {
    const d = Math.abs(a[i]! - b[i]!);
    if (!(d <= max)) max = d;
  }
  return max;
}
