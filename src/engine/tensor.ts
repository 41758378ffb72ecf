import {
  checkBoolean,
  checkFloat,
  checkInteger,
  isArray,
  OURS,
  readOptions,
  readList,
  typedArrayKind,
} from '../arguments.js';
import type { NativeBinding, TensorHandle } from './binding.js';
import { callNative, runNative } from './call.js';
import { normalizeSeed } from '../sampler/random.js';
import type { Device, DType, TensorData, TensorLike } from '../types.js';
import { deviceIndex } from './device.js';
import { handleOf, NativeObject } from './native-object.js';

/** @internal The tensor of a handle, whose ownership it takes. */
export let tensorOf: (handle: TensorHandle) => Tensor;

/**
 * A handle to a tensor in native memory. Elements stay native unless asked for. Dispose it when done; the garbage
 * collector is the safety net.
 *
 * Operations on tensors of one device run in the order in which they were asked for. `clone` of a tensor on the CPU
 * copies at once, on the calling thread: do not clone it while an operation that writes to it is still pending.
 */
export class Tensor extends NativeObject<TensorHandle> implements TensorLike {
  readonly shape: readonly number[];
  readonly dtype: DType;
  readonly device: Device;

  private constructor(key: typeof OURS, handle: TensorHandle) {
    super(key, handle, 'tensor', 'Tensor.from or Tensor.randn');
    const info = callNative((binding) => binding.tensorInfo(handle));
    this.shape = Object.freeze(info.shape);
    this.dtype = info.dtype;
    this.device = info.device as Device;
  }

  static {
    tensorOf = (handle) => new Tensor(OURS, handle);
  }

  /**
   * Copies `data` (row-major) into a new tensor.
   * @param o.dtype default: that of the array (float32, int32, int64)
   * @throws ERR_JITFLUX_INVALID_TENSOR if the shape does not fit the data
   */
  static from(
    data: TensorData,
    shape: readonly number[],
    o: { device?: Device | undefined; dtype?: DType | undefined } = {},
  ): Tensor {
    const given = readOptions(o, { device: true, dtype: true });
    const device = deviceIndex(given.device);
    const kind = typedArrayKind(data);
    const dtype =
      given.dtype ?? (kind === 'Float32Array' ? 'float32' : kind === 'Int32Array' ? 'int32' : 'int64');
    const native = { data, shape: readShape(shape), dtype, device };
    return tensorOf(callNative((binding) => binding.tensorFrom(native)));
  }

  /**
   * Standard normal noise, bit-equal to `torch.randn(shape, generator=torch.Generator('cpu').manual_seed(seed))`.
   * With a list of seeds, one per image, image b is drawn on its own as a tensor [1, ...] (diffusers' list of
   * generators).
   * @throws ERR_JITFLUX_INVALID_ARGUMENT for a seed that is no integer from 0 to 2^53 - 1 or bigint below 2^64
   */
  static randn(
    shape: readonly number[],
    o: {
      seed: number | bigint | readonly (number | bigint)[];
      device?: Device | undefined;
      dtype?: DType | undefined;
    },
  ): Tensor {
    const given = readOptions(o, { seed: true, device: true, dtype: true });
    const device = deviceIndex(given.device);
    const expected = `a seed, or a list of at most ${MOST_IMAGES} seeds`;
    const list = isArray(given.seed)
      ? readList(given.seed, 'seeds', expected, [0, MOST_IMAGES])
      : [given.seed];
    const seeds = list.map((seed) => normalizeSeed(seed));
    const native = { shape: readShape(shape), seeds, dtype: given.dtype ?? 'float32', device };
    return tensorOf(callNative((binding) => binding.tensorRandn(native)));
  }

  /** The elements as float32, in row-major order. */
  async toFloat32Array(): Promise<Float32Array> {
    const handle = this.handle;
    return runNative((binding, job) => binding.tensorRead(handle, job));
  }

  /**
   * The images (first dimension) that hold NaN or infinite values, in ascending order. Of integers none does. Looks at the
   * elements where they are.
   */
  async notFinite(): Promise<Int32Array> {
    const handle = this.handle;
    return runNative((binding, job) => binding.tensorNotFinite(handle, job));
  }

  /**
   * `this + scale * other` in a new tensor, of this one's type: float32 and smaller types are computed in float32.
   * @param o.scale default 1
   * @throws (rejects) ERR_JITFLUX_INVALID_TENSOR unless both are of floating point types, of one shape and on one device
   */
  async add(other: Tensor, o: { scale?: number | undefined } = {}): Promise<Tensor> {
    const { scale = 1 } = readOptions(o, { scale: true });
    return this.#combine(1, { other, scale: checkFloat('scale', scale) });
  }

  /** `factor * this` in a new tensor. As {@link add}. */
  async scale(factor: number): Promise<Tensor> {
    return this.#combine(checkFloat('factor', factor));
  }

  /** `(1 - weight) * this + weight * other` in a new tensor. As {@link add}; weights beyond 0 to 1 extrapolate. */
  async mix(other: Tensor, weight: number): Promise<Tensor> {
    const share = checkFloat('weight', weight);
    return this.#combine(1 - share, { other, scale: share });
  }

  /** The square root of the sum of squares of all elements. As {@link sum}. */
  norm(): Promise<number>;
  norm(o: { perImage: true }): Promise<Float64Array>;
  async norm(o: Reduce = {}): Promise<number | Float64Array> {
    return this.#reduce('norm', o, (norms) => norms.reduce((all, norm) => Math.hypot(all, norm), 0));
  }

  /** The sum of all elements. `perImage`: a number for every image (first dimension). In float64, on the tensor's device. */
  sum(): Promise<number>;
  sum(o: { perImage: true }): Promise<Float64Array>;
  async sum(o: Reduce = {}): Promise<number | Float64Array> {
    return this.#reduce('sum', o, total);
  }

  /** The mean of all elements. As {@link sum}. */
  mean(): Promise<number>;
  mean(o: { perImage: true }): Promise<Float64Array>;
  async mean(o: Reduce = {}): Promise<number | Float64Array> {
    const images = this.shape[0] ?? 1;
    const each = this.shape.slice(1).reduce((product, size) => product * size, 1);
    const sums = await this.#reduce('sum', o, total);
    return typeof sums === 'number' ? sums / (images * each) : sums.map((sum) => sum / each);
  }

  /** The least element. As {@link sum}; NaN if there is one. */
  min(): Promise<number>;
  min(o: { perImage: true }): Promise<Float64Array>;
  async min(o: Reduce = {}): Promise<number | Float64Array> {
    return this.#reduce('min', o, (least) => least.reduce((all, one) => Math.min(all, one), Infinity));
  }

  /** The greatest element. As {@link sum}; NaN if there is one. */
  max(): Promise<number>;
  max(o: { perImage: true }): Promise<Float64Array>;
  async max(o: Reduce = {}): Promise<number | Float64Array> {
    return this.#reduce('max', o, (greatest) => greatest.reduce((all, one) => Math.max(all, one), -Infinity));
  }

  async #combine(scale: number, more?: { other: Tensor; scale: number }): Promise<Tensor> {
    const other = more && handleOf(more.other, 'other');
    const o = { tensor: this.handle, scale, other, otherScale: more?.scale ?? 0 };
    return tensorOf(await runNative((binding, job) => binding.tensorCombine(o, job)));
  }

  /** @param all of the numbers of all images */
  async #reduce(
    reduction: Parameters<NativeBinding['tensorReduce']>[0]['reduction'],
    given: Reduce,
    all: (perImage: Float64Array) => number,
  ): Promise<number | Float64Array> {
    const { perImage = false } = readOptions(given, { perImage: true });
    checkBoolean('perImage', perImage);
    const o = { tensor: this.handle, reduction };
    const numbers = await runNative((binding, job) => binding.tensorReduce(o, job));
    return perImage ? numbers : all(numbers);
  }

  /** A copy on another device, or on the same. */
  async to(device: Device): Promise<Tensor> {
    const [handle, index] = [this.handle, deviceIndex(device)];
    return tensorOf(await runNative((binding, job) => binding.tensorTo(handle, index, job)));
  }

  /**
   * @internal Runs `use` with these tensors' handles on the device with this index: those of copies, disposed afterwards,
   * where a tensor is elsewhere. A copy is made on the tensor's own device, after what it has still to do there; everything
   * is taken hold of before this returns, so that the caller may dispose the tensors at once.
   */
  static async on<T extends Tensor[], R>(
    index: number,
    tensors: [...T],
    use: (handles: { [I in keyof T]: TensorHandle }) => Promise<R>,
  ): Promise<R> {
    type Handles = { [I in keyof T]: TensorHandle };
    const isThere = (tensor: Tensor) => deviceIndex(tensor.device) === index;
    if (tensors.every(isThere)) return use(tensors.map(({ handle }) => handle) as Handles);
    const device = index < 0 ? 'cpu' : (`cuda:${index}` as const);
    const there = await Promise.all(
      tensors.map(async (tensor) => {
        if (isThere(tensor)) return { handle: tensor.handle };
        const copy = await tensor.to(device);
        return { handle: copy.handle, copy };
      }),
    );
    try {
      return await use(there.map(({ handle }) => handle) as Handles);
    } finally {
      for (const { copy } of there) copy?.dispose();
    }
  }

  /**
   * The images (first dimension) of several tensors in one, one after another. The tensors differ in the first dimension
   * only and are on one device.
   * @param o.repeats how often every image of `tensors[i]` is repeated; default once each
   * @returns a copy
   * @throws ERR_JITFLUX_INVALID_TENSOR, ERR_JITFLUX_INVALID_ARGUMENT
   */
  static async stack(
    tensors: readonly Tensor[],
    o: { repeats?: readonly number[] | undefined } = {},
  ): Promise<Tensor> {
    const expected = `a list of 1 to ${MOST_IMAGES}`;
    const list = readList(tensors, 'tensors', `${expected} tensors`, [1, MOST_IMAGES]);
    const given = readOptions(o, { repeats: true }).repeats ?? list.map(() => 1);
    const repeats = readList(given, 'repeats', `${expected} numbers`, [1, MOST_IMAGES]);
    const stacked = {
      tensors: list.map((tensor, i) => handleOf(tensor, `tensors[${i}]`)),
      repeats: Int32Array.from(repeats, (count, i) => checkInteger(`repeats[${i}]`, count, 1, MOST_IMAGES)),
    };
    return tensorOf(await runNative((binding, job) => binding.stackImages(stacked, job)));
  }

  /**
   * Some images (first dimension) of this tensor, in the same memory: what is written to one is seen in the other. Either
   * may be disposed first.
   * @throws ERR_JITFLUX_INVALID_ARGUMENT if it has no such images
   */
  images(first: number, count = 1): Tensor {
    const handle = this.handle;
    return tensorOf(callNative((binding) => binding.imagesOf({ tensor: handle, first, count })));
  }

  clone(): this {
    const handle = this.handle;
    return tensorOf(callNative((binding) => binding.tensorClone(handle))) as this;
  }
}

const total = (sums: Float64Array) => sums.reduce((all, sum) => all + sum, 0);

interface Reduce {
  perImage?: boolean | undefined;
}

/** Most images of a batch, far beyond what any memory holds. */
const MOST_IMAGES = 1 << 20;

/** Native code checks the sizes. */
function readShape(shape: readonly number[]): number[] {
  return readList(shape, 'shape', 'an array of 1 to 8 dimensions', [1, 8]);
}
