// Inputs made from inputs: what libFuzzer does to bytes, for the targets in JavaScript.

/** Numbers with the same seed in the same order (Marsaglia's xorshift). */
export class Random {
  /** @param {number} seed */
  constructor(seed) {
    this.state = seed >>> 0 || 1;
  }

  /** @param {number} limit an integer from 1 to 2^32 */
  below(limit) {
    let x = this.state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.state = x >>> 0;
    return this.state % limit;
  }

  /**
   * @template T
   * @param {readonly T[]} list
   * @returns {T}
   */
  of(list) {
    return /** @type {T} */ (list[this.below(list.length)]);
  }
}

const NUMBERS = [0, 1, 2, 7, 8, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff];
const TEXTS = ['-1', '0', '1e999', '9007199254740993', '4294967296', 'null', '[]', '{}', '""', 'true', '\\u0000', '__proto__', '\ud83d\ude00', '\0']; // prettier-ignore

/**
 * @param {Buffer} input
 * @param {{ random: Random, words: readonly Buffer[], other: Buffer, maxLength: number }} o
 *   other: an input to take pieces from
 * @returns {Buffer}
 */
export function mutate(input, o) {
  let bytes = input;
  for (let times = 1 + o.random.below(4); times > 0; times--) bytes = once(bytes, o);
  return bytes.length > o.maxLength ? bytes.subarray(0, o.maxLength) : bytes;
}

/**
 * @param {Buffer} input
 * @param {{ random: Random, words: readonly Buffer[], other: Buffer }} o
 * @returns {Buffer}
 */
function once(input, { random, words, other }) {
  const at = random.below(input.length + 1);
  /** @param {Buffer} piece @param {number} [removed] */
  const put = (piece, removed = 0) =>
    Buffer.concat([input.subarray(0, at), piece, input.subarray(Math.min(input.length, at + removed))]);
  const choice = random.below(13);
  if (choice < 3 && words.length > 0) {
    const word = random.of(words);
    return put(word, choice === 0 ? word.length : 0);
  }
  if (choice === 3) return put(Buffer.from(random.of(TEXTS)), random.below(4));
  if (choice === 4) return put(Buffer.alloc(0), 1 + random.below(8));
  if (choice === 5) return put(Buffer.alloc(0), 1 + random.below(input.length + 1));
  if (choice === 6) {
    const from = random.below(other.length + 1);
    return put(other.subarray(from, from + 1 + random.below(64)));
  }
  if (choice === 7) {
    const from = random.below(input.length + 1);
    return put(input.subarray(from, from + 1 + random.below(32)));
  }
  if (choice === 8) return put(Buffer.alloc(1 + random.below(4), random.below(256)));
  if (choice === 9) return changeNumber(input, random);
  if (input.length === 0) return Buffer.from([random.below(256)]);
  const result = Buffer.from(input);
  const place = random.below(result.length);
  if (choice === 10) {
    const number = random.of(NUMBERS);
    const size = random.of([1, 2, 4]);
    if (place + size > result.length) return result;
    if (random.below(2) === 0) result.writeUIntLE(number % 2 ** (8 * size), place, size);
    else result.writeUIntBE(number % 2 ** (8 * size), place, size);
  } else if (choice === 11) {
    result[place] = /** @type {number} */ (result[place]) ^ (1 << random.below(8));
  } else {
    result[place] = random.below(256);
  }
  return result;
}

/**
 * Another number in the place of one that is written in digits.
 * @param {Buffer} input
 * @param {Random} random
 */
function changeNumber(input, random) {
  const numbers = [...input.toString('latin1').matchAll(/\d+/g)];
  if (numbers.length === 0) return input;
  const { index, 0: text } = random.of(numbers);
  const value = Number(text);
  const next = random.of([
    value + 1,
    value - 1,
    value * 2,
    random.below(16),
    2 ** 31,
    2 ** 53,
    random.of(NUMBERS),
  ]);
  return Buffer.concat([
    input.subarray(0, index),
    Buffer.from(BigInt(Math.trunc(Math.min(next, 1e18))).toString()),
    input.subarray(index + text.length),
  ]);
}

/**
 * A JSON text with one value removed, put elsewhere or replaced; undefined if it is no JSON.
 * @param {Buffer} input
 * @param {Random} random
 * @returns {Buffer | undefined}
 */
export function mutateJson(input, random) {
  let root;
  try {
    root = { value: JSON.parse(input.toString('utf8')) };
  } catch {
    return undefined;
  }
  /** @type {[holder: any, key: string][]} */
  const places = [];
  const visit = (/** @type {any} */ holder) => {
    for (const key of Object.keys(holder)) {
      places.push([holder, key]);
      if (typeof holder[key] === 'object' && holder[key] !== null) visit(holder[key]);
    }
  };
  visit(root);
  for (let times = 1 + random.below(3); times > 0; times--) {
    const [holder, key] = random.of(places);
    const value = holder[key];
    const choice = random.below(8);
    if (choice === 0) {
      if (holder !== root) delete holder[key];
    } else if (choice === 1) {
      const [other, from] = random.of(places);
      holder[key] = copy(other[from]);
    } else if (choice === 2 && typeof value === 'object' && value !== null) {
      const added = copy(random.of(places)[0]);
      if (Array.isArray(value)) value.push(added);
      else value[random.of(places)[1]] = added;
    } else if (choice < 5 && typeof value === 'number') {
      holder[key] = random.of([value + 1, -value, 0, 2 ** 31, 2 ** 53, 0.5, 1e308]);
    } else if (choice < 6 && typeof value === 'string') {
      const at = random.below(value.length + 1);
      holder[key] =
        value.slice(0, at) + random.of([...TEXTS, 'a', ' ', '\u2581']) + value.slice(at + random.below(3));
    } else {
      holder[key] = random.of([null, true, false, 0, -1, '', 'a', [], {}, ['a', 'b'], { type: 'Sequence' }]);
    }
  }
  return Buffer.from(JSON.stringify(root.value) ?? '');
}

/** @param {unknown} value of a JSON text */
function copy(value) {
  return value === undefined ? undefined : JSON.parse(JSON.stringify(value));
}
