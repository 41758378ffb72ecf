/**
 * Values that no caller should hand over, by name. A case of a property test keeps the name and not the value, so that
 * it can be printed, shrunk and run again.
 */
import vm from 'node:vm';
import fc from 'fast-check';

/** Native objects of a family that are hostile where another one is wanted, such as a disposed tensor. */
export type OwnValues = Readonly<Record<string, () => unknown>>;

/** What an error of a hostile value says of itself; never part of one of ours by accident. */
export const HOSTILE = 'hostile value';

/** Resizable buffers, which the libraries that we compile against do not know yet. */
interface Resizable extends ArrayBuffer {
  resize(bytes: number): void;
}
const ResizableBuffer = ArrayBuffer as unknown as new (
  bytes: number,
  o: { maxByteLength: number },
) => Resizable;
const GrowableBuffer = SharedArrayBuffer as unknown as new (
  bytes: number,
  o: { maxByteLength: number },
) => SharedArrayBuffer;

export function resizableBuffer(bytes: number, most: number): Resizable {
  return new ResizableBuffer(bytes, { maxByteLength: most });
}

function fail(): never {
  throw new TypeError(HOSTILE);
}

/** What an error of a hostile function says, which is a callback to whoever calls it. */
export const CALLBACK = 'hostile callback';

function callback(): never {
  throw new TypeError(CALLBACK);
}

/** Throws wherever a program can look. */
const throwing: ProxyHandler<object> = {
  get: fail,
  has: fail,
  ownKeys: fail,
  getOwnPropertyDescriptor: fail,
  getPrototypeOf: fail,
  set: fail,
  defineProperty: fail,
  deleteProperty: fail,
  apply: callback,
  construct: callback,
  isExtensible: fail,
};

function revoked(target: object): object {
  const { proxy, revoke } = Proxy.revocable(target, {});
  revoke();
  return proxy;
}

function foreign(source: string): unknown {
  return vm.runInNewContext(source);
}

function detached<A extends ArrayBufferView>(array: A): A {
  structuredClone(array.buffer, { transfer: [array.buffer as ArrayBuffer] });
  return array;
}

/** Of a resizable buffer that has shrunk below the view. */
function outOfBounds(): Int32Array {
  const buffer = resizableBuffer(64, 64);
  const view = new Int32Array(buffer, 8, 4);
  buffer.resize(4);
  return view;
}

/** Of a resizable buffer; the view follows its length. */
function lengthTracking(): Int32Array {
  return new Int32Array(resizableBuffer(16, 1024));
}

class HostileSpecies extends Int32Array {
  static get [Symbol.species](): never {
    return fail();
  }
}
class HostileLength extends Int32Array {
  // A view cannot be longer than its buffer, whatever it says.
  override get length(): number {
    return 2 ** 31;
  }
}
class HostileIterator extends Int32Array {
  override [Symbol.iterator](): never {
    return fail();
  }
  override forEach(): never {
    return fail();
  }
  override slice(): never {
    return fail();
  }
}
class HostileArray extends Array<number> {
  static override get [Symbol.species](): never {
    return fail();
  }
  override map(): never {
    return fail();
  }
  override [Symbol.iterator](): never {
    return fail();
  }
}

function cyclic(): unknown {
  const value: unknown[] = [];
  value.push(value, { value });
  return value;
}

/** A function that lives as long as the thenable, and calls nobody back. */
export const NEVER = { then: () => undefined };

/** Every one of them by its name. Functions, because many of them can be used once only. */
export const VALUES: OwnValues = {
  undefined: () => undefined,
  null: () => null,
  true: () => true,
  false: () => false,
  zero: () => 0,
  'minus zero': () => -0,
  one: () => 1,
  'minus one': () => -1,
  half: () => 0.5,
  'above one': () => 1 + Number.EPSILON,
  nan: () => NaN,
  infinity: () => Infinity,
  '-infinity': () => -Infinity,
  subnormal: () => Number.MIN_VALUE,
  'largest subnormal': () => 2.225e-308,
  'largest double': () => Number.MAX_VALUE,
  '2^31 - 1': () => 2 ** 31 - 1,
  '2^31': () => 2 ** 31,
  '-2^31 - 1': () => -(2 ** 31) - 1,
  '2^32': () => 2 ** 32,
  '2^32 + 1': () => 2 ** 32 + 1,
  '2^53 - 1': () => 2 ** 53 - 1,
  '2^53': () => 2 ** 53,
  '2^63': () => 2 ** 63,
  '2^64': () => 2 ** 64,
  '0n': () => 0n,
  '-1n': () => -1n,
  '2n^31': () => 2n ** 31n,
  '2n^64 - 1': () => 2n ** 64n - 1n,
  '2n^64': () => 2n ** 64n,
  '10n^400': () => 10n ** 400n,
  symbol: () => Symbol('hostile'),
  'symbol without a name': () => Symbol(),
  'Symbol.iterator': () => Symbol.iterator,
  'empty string': () => '',
  blank: () => ' \t\n',
  nul: () => '\0',
  'nul inside': () => 'a\0b',
  'lone surrogate': () => '\ud800',
  'reversed surrogates': () => 'a\udc00\ud800b',
  'number as text': () => '1',
  'long string': () => 'x'.repeat(100_000),
  'long name': () => 'n'.repeat(300),
  __proto__: () => '__proto__',
  constructor: () => 'constructor',
  toString: () => 'toString',
  hasOwnProperty: () => 'hasOwnProperty',
  'parent folder': () => '../..',
  'no such path': () => '/nonexistent/model',
  'a folder': () => '/proc/self',
  'an unreadable file': () => '/proc/self/mem',
  function: () => () => undefined,
  'throwing function': () => callback,
  'async function': () => async () => undefined,
  generator: () => function* generator() {},
  class: () => class {},
  'bound function': () => callback.bind(null),
  object: () => ({}),
  'null prototype': () => Object.create(null) as unknown,
  frozen: () => Object.freeze({}),
  'frozen array': () => Object.freeze([1]),
  array: () => [],
  'array in array': () => [[]],
  'array of one': () => [1],
  'array of holes': () => new Array<unknown>(3),
  'array of undefined': () => [undefined],
  'array of 1e5': () => new Array<number>(100_000).fill(1),
  'array of 2^32 - 1 holes': () => new Array<unknown>(2 ** 32 - 1),
  'array of bigints': () => [1n, 2n],
  'array of symbols': () => [Symbol('a')],
  'array of NaN': () => [NaN, NaN],
  'array of strings': () => ['a', '\0'],
  'array subclass': () => HostileArray.from([1, 0.5]),
  'array-like': () => ({ length: 2, 0: 1, 1: 0.5 }),
  'array-like of 2^53': () => ({ length: 2 ** 53 }),
  'array-like of -1': () => ({ length: -1 }),
  'array-like of NaN': () => ({ length: NaN }),
  arguments: () =>
    (function (..._values: number[]) {
      // eslint-disable-next-line prefer-rest-params
      return arguments;
    })(1, 0.5),
  map: () => new Map([['steps', 1]]),
  set: () => new Set([0]),
  'weak map': () => new WeakMap(),
  date: () => new Date(0),
  'invalid date': () => new Date(NaN),
  regexp: () => /x/g,
  error: () => new Error('an error'),
  promise: () => Promise.resolve(1),
  'rejected promise': () => {
    const promise = Promise.reject(new Error(CALLBACK));
    promise.catch(() => undefined);
    return promise;
  },
  thenable: () => ({ then: (resolve: (value: unknown) => void) => resolve(1) }),
  'throwing thenable': () => ({ then: callback }),
  'thenable that never settles': () => NEVER,
  'boxed number': () => Object(1) as unknown,
  'boxed string': () => Object('cpu') as unknown,
  'boxed bigint': () => Object(1n) as unknown,
  'global object': () => globalThis,
  cyclic,
  'revoked proxy': () => revoked({}),
  'revoked array': () => revoked([]),
  'revoked function': () => revoked(callback),
  'throwing proxy': () => new Proxy({}, throwing),
  'throwing array proxy': () => new Proxy([1], throwing),
  'throwing function proxy': () => new Proxy(callback, throwing),
  'array proxy': () => new Proxy([1, 0.5], {}),
  'proxy of a typed array': () => new Proxy(new Int32Array(4), {}),
  'throwing getter': () => Object.defineProperty({}, 'value', { get: fail, enumerable: true }),
  'throwing length': () => Object.defineProperty({}, 'length', { get: fail }),
  'throwing element': () => Object.defineProperty([1], 0, { get: fail }),
  'throwing toString': () => ({ toString: fail, valueOf: fail }),
  'throwing toPrimitive': () => ({ [Symbol.toPrimitive]: fail }),
  'throwing toJSON': () => ({ toJSON: fail }),
  'throwing constructor': () => Object.defineProperty({}, 'constructor', { get: fail }),
  'throwing name': () => ({ constructor: Object.defineProperty({}, 'name', { get: fail }) }),
  'throwing iterator': () => ({ [Symbol.iterator]: fail }),
  'throwing toStringTag': () => Object.defineProperty({}, Symbol.toStringTag, { get: fail }),
  'throwing hasInstance': () => ({ [Symbol.hasInstance]: fail }),
  'endless iterator': () => ({
    [Symbol.iterator]: () => ({ next: () => ({ done: false, value: 1 }) }),
  }),
  'text that is an object': () => ({ toString: () => 'cpu', [Symbol.toPrimitive]: () => 'cpu' }),
  'number that is an object': () => ({ valueOf: () => 1 }),
  'polluted keys': () =>
    JSON.parse('{"__proto__": {"steps": 3}, "constructor": {"prototype": {}}}') as unknown,
  'Float32Array of 4': () => new Float32Array(4),
  'Float32Array of NaN': () => new Float32Array([NaN, Infinity]),
  'empty Float32Array': () => new Float32Array(),
  'Int32Array of 0 1 2': () => Int32Array.of(0, 1, 2),
  'Int32Array of equals': () => Int32Array.of(1, 1),
  'Int32Array of -1': () => Int32Array.of(-1),
  'Int32Array of 2^31 - 1': () => Int32Array.of(2 ** 31 - 1),
  'empty Int32Array': () => new Int32Array(),
  'large Int32Array': () => new Int32Array(1 << 20),
  BigInt64Array: () => BigInt64Array.of(0n, 1n),
  Uint8Array: () => new Uint8Array(12),
  Uint8ClampedArray: () => new Uint8ClampedArray(12),
  Uint32Array: () => new Uint32Array(3),
  Float64Array: () => new Float64Array(4),
  Buffer: () => Buffer.alloc(12),
  DataView: () => new DataView(new ArrayBuffer(16)),
  ArrayBuffer: () => new ArrayBuffer(16),
  SharedArrayBuffer: () => new SharedArrayBuffer(16),
  'shared Float32Array': () => new Float32Array(new SharedArrayBuffer(16)),
  'shared Int32Array': () => new Int32Array(new SharedArrayBuffer(16)),
  'growable shared Int32Array': () => new Int32Array(new GrowableBuffer(16, { maxByteLength: 1024 })),
  'detached Float32Array': () => detached(new Float32Array(4)),
  'detached Int32Array': () => detached(Int32Array.of(0, 1)),
  'detached Uint8Array': () => detached(new Uint8Array(12)),
  'Int32Array out of bounds': outOfBounds,
  'length-tracking Int32Array': lengthTracking,
  'Int32Array with a hostile species': () => HostileSpecies.of(0, 1, 2),
  'Int32Array with a false length': () => new HostileLength(4),
  'Int32Array with hostile methods': () => new HostileIterator(4),
  'Int32Array with own properties': () =>
    Object.assign(Int32Array.of(0, 1), { slice: fail, subarray: fail, map: fail, filter: fail }),
  'object of another realm': () => foreign('({})'),
  'array of another realm': () => foreign('[1, 0.5]'),
  'Int32Array of another realm': () => foreign('Int32Array.of(0, 1, 2)'),
  'Float32Array of another realm': () => foreign('new Float32Array(4)'),
  'function of another realm': () => foreign('(() => undefined)'),
  'error of another realm': () => foreign('new TypeError("x")'),
  'aborted signal': () => AbortSignal.abort(),
  'aborted signal with a hostile reason': () => AbortSignal.abort(new Proxy({}, throwing)),
  'aborted signal without an error': () => AbortSignal.abort(7),
  signal: () => new AbortController().signal,
  'duck-typed signal': () => ({ aborted: false }),
  'duck-typed aborted signal': () => ({ aborted: true }),
  'signal with a throwing reason': () => Object.defineProperty({ aborted: true }, 'reason', { get: fail }),
  'signal that throws when listened to': () => ({
    aborted: false,
    addEventListener: fail,
    removeEventListener: fail,
  }),
  'signal that throws when left': () => ({
    aborted: false,
    addEventListener: () => undefined,
    removeEventListener: fail,
  }),
  'signal with a throwing aborted': () => Object.defineProperty({}, 'aborted', { get: fail }),
  'event target': () => new EventTarget(),
  'object with the prototype of a signal': () => Object.create(AbortSignal.prototype) as unknown,
};

/** A value of a case: one of {@link VALUES} or of the family's own by its name, or any plain value. */
export type Value = { readonly named: string } | { readonly plain: unknown };

/** Any value, preferably a hostile one. @param own names of the family's own */
export function values(own: readonly string[] = []): fc.Arbitrary<Value> {
  const names = Object.keys(VALUES);
  const named = (from: readonly string[]) => fc.constantFrom(...from).map((name): Value => ({ named: name }));
  const plain = fc
    .oneof(
      fc.integer(),
      fc.integer({ min: -2, max: 70 }),
      fc.double(),
      fc.double({ min: 0, max: 1 }),
      fc.string({ unit: 'binary' }),
      fc.array(fc.oneof(fc.integer({ min: -1, max: 20 }), fc.double({ min: 0, max: 1 }))),
      fc.anything({ withBigInt: true, withDate: true, withNullPrototype: true, withTypedArray: true }),
    )
    .map((value): Value => ({ plain: value }));
  return fc.oneof(
    { weight: 6, arbitrary: named(names) },
    { weight: 2, arbitrary: plain },
    ...(own.length > 0 ? [{ weight: 2, arbitrary: named(own) }] : []),
  );
}

/** Makes the value of a case. */
export function valueOf(value: Value, own: OwnValues = {}): unknown {
  if ('plain' in value) return value.plain;
  const make = (Object.hasOwn(own, value.named) ? own : VALUES)[value.named];
  if (make === undefined) throw new Error(`no hostile value is called ${value.named}`);
  return make();
}
