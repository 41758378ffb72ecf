/**
 * Deterministic randomness from one seed.
 *
 * A request has one seed. Each image of a batch gets its own ({@link imageSeed}: seed + b), so that image b of a batch
 * equals a single run with seed + b. Each purpose draws from a named sub-stream of the image's seed
 * ({@link subSeed}), so that, say, choosing other anchors never changes the noise. Streams in use:
 *
 * | name                   | draws                                                        |
 * |------------------------|--------------------------------------------------------------|
 * | `latents`              | initial noise; the stream is the seed itself, so it equals `torch.manual_seed(seed)` |
 * | `micro-flow`           | fixed noise of the micro-flow targets                        |
 * | `anchors`              | trimming or supplementing the first stage's anchors          |
 * | `activation.<stage>`   | `ActivationContext.random()` at the transition to that stage |
 */

import { checkInteger, copyOf, readList } from '../arguments.js';
import { invalidArgument } from '../errors.js';

const MASK64 = (1n << 64n) - 1n;

/**
 * A seed as an unsigned 64-bit integer.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT unless it is a safe integer >= 0 or a bigint in [0, 2^64)
 */
export function normalizeSeed(seed: number | bigint, option = 'seed'): bigint {
  const valid =
    typeof seed === 'bigint' ? seed >= 0n && seed <= MASK64 : Number.isSafeInteger(seed) && seed >= 0;
  if (!valid) throw invalidArgument(option, 'an integer from 0 to 2^53 - 1, or a bigint below 2^64', seed);
  return BigInt(seed);
}

/**
 * Seed of one image of a batch: `seed + image`, modulo 2^64. Image b of a batch is the picture that a single run with
 * this seed gives.
 */
export function imageSeed(seed: number | bigint, image: number): bigint {
  if (!Number.isSafeInteger(image) || image < 0) throw invalidArgument('image', 'an integer >= 0', image);
  return (normalizeSeed(seed) + BigInt(image)) & MASK64;
}

/** Seeds of the images of a batch that has one seed. */
export function imageSeeds(seed: number | bigint, images: number): bigint[] {
  const first = normalizeSeed(seed);
  return Array.from({ length: images }, (_, image) => imageSeed(first, image));
}

/**
 * A list of one seed per image.
 * @param least, most how many there may be
 * @throws ERR_JITFLUX_INVALID_ARGUMENT
 */
export function readSeeds(
  given: readonly (number | bigint)[],
  expected: string,
  range: readonly [least: number, most: number],
): bigint[] {
  const list = readList(given, 'seed', expected, range);
  return list.map((seed, image) => normalizeSeed(seed, `seed[${image}]`));
}

/** Longest name of a sub-stream. */
const MAX_NAME = 1000;

/**
 * Seed of a named sub-stream: a well mixed 64-bit hash of both. The stream `'latents'` is the seed itself.
 * @param name at most 1000 characters
 * @throws ERR_JITFLUX_INVALID_ARGUMENT
 */
export function subSeed(seed: number | bigint, name: string): bigint {
  const base = normalizeSeed(seed);
  if (typeof name !== 'string' || name.length > MAX_NAME) {
    throw invalidArgument('name', `a string of at most ${MAX_NAME} characters`, name);
  }
  if (name === 'latents') return base;
  return mix64((mix64(base + GOLDEN_GAMMA) ^ fnv1a64(name)) + GOLDEN_GAMMA);
}

const GOLDEN_GAMMA = 0x9e3779b97f4a7c15n;

/** The finaliser of SplitMix64: a bijection of 64-bit integers in which every input bit affects every output bit. */
function mix64(value: bigint): bigint {
  let z = value & MASK64;
  z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK64;
  z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & MASK64;
  return z ^ (z >> 31n);
}

function fnv1a64(text: string): bigint {
  let hash = 0xcbf29ce484222325n;
  for (const byte of new TextEncoder().encode(text)) {
    hash = ((hash ^ BigInt(byte)) * 0x100000001b3n) & MASK64;
  }
  return hash;
}

/**
 * xoshiro128** seeded through SplitMix64. Cheap (32-bit integer arithmetic), with the same numbers on every machine.
 * For choices, not for tensors: noise comes from the native generator.
 */
export class Random {
  readonly #state = new Uint32Array(4);

  /** @param seed as for {@link normalizeSeed} */
  constructor(seed: number | bigint) {
    let counter = normalizeSeed(seed);
    for (let i = 0; i < 4; i += 2) {
      counter = (counter + GOLDEN_GAMMA) & MASK64;
      const word = mix64(counter);
      this.#state[i] = Number(word & 0xffffffffn);
      this.#state[i + 1] = Number(word >> 32n);
    }
  }

  /** A uniform integer in [0, 2^32). */
  uint32(): number {
    const s = this.#state;
    const s1 = s[1]!;
    const times5 = Math.imul(s1, 5);
    const result = Math.imul((times5 << 7) | (times5 >>> 25), 9) >>> 0;
    const shifted = s1 << 9;
    s[2]! ^= s[0]!;
    s[3]! ^= s1;
    s[1]! ^= s[2]!;
    s[0]! ^= s[3]!;
    s[2]! ^= shifted;
    s[3] = (s[3]! << 11) | (s[3]! >>> 21);
    return result;
  }

  /** A uniform number in [0, 1) with 53 random bits. */
  next(): number {
    return ((this.uint32() >>> 5) * 0x4000000 + (this.uint32() >>> 6)) / 0x20000000000000;
  }

  /** @internal Whether a value is one of these, and no object that only looks like it. */
  static is(value: unknown): value is Random {
    return typeof value === 'object' && value !== null && #state in value;
  }

  /**
   * A uniform integer in [0, n), without bias; 1 <= n <= 2^32.
   * @throws ERR_JITFLUX_INVALID_ARGUMENT
   */
  below(n: number): number {
    checkInteger('n', n, 1, 2 ** 32);
    const limit = 0x100000000 - (0x100000000 % n);
    let value = this.uint32();
    while (value >= limit) value = this.uint32();
    return value % n;
  }

  /**
   * A uniformly chosen ordered selection of `count` of the values, without replacement. The input is not changed.
   * @throws ERR_JITFLUX_INVALID_ARGUMENT
   */
  choose(values: Int32Array, count: number): Int32Array {
    const pool = copyOf('Int32Array', values);
    if (pool === undefined) throw invalidArgument('values', 'an Int32Array', values);
    checkInteger('count', count, 0, pool.length);
    for (let i = 0; i < count; i++) {
      const j = i + this.below(pool.length - i);
      const picked = pool[j]!;
      pool[j] = pool[i]!;
      pool[i] = picked;
    }
    return pool.slice(0, count);
  }

  /**
   * A uniformly chosen permutation of 0 .. n-1; 0 <= n <= 2^24.
   * @throws ERR_JITFLUX_INVALID_ARGUMENT
   */
  permutation(n: number): Int32Array {
    checkInteger('n', n, 0, 1 << 24);
    return this.choose(
      Int32Array.from({ length: n }, (_, i) => i),
      n,
    );
  }
}
