/* eslint-disable @typescript-eslint/unbound-method -- getters of built-in prototypes, called on what is to be checked */
/**
 * Reading what callers hand over. An object of a caller may have getters that throw, that answer otherwise the next time or
 * that dispose what is in use; it may be a Proxy, or be changed while work is in flight. So every field and every element
 * is read once, when a call begins, into an object of our own; checks and work see that one only.
 */
import {
  checkSignal,
  ERROR_CODES,
  invalidArgument,
  isJitFluxError,
  JitFluxError,
  type JitFluxErrorCode,
} from './errors.js';

/** Names of the fields of every member of a union. */
type FieldNames<T> = T extends unknown ? keyof T : never;

/** The names of an interface's fields. The compiler asks for an entry when a field is added. */
export type Names<T> = Readonly<Record<FieldNames<T>, true>>;

/**
 * Runs something that looks into an object of the caller's.
 * @throws `code` if that throws, with what it threw as cause; an error of ours passes
 */
export function reading<R>(
  option: string,
  read: () => R,
  code: JitFluxErrorCode = ERROR_CODES.INVALID_ARGUMENT,
): R {
  try {
    return read();
  } catch (cause) {
    if (isJitFluxError(cause)) throw cause;
    throw new JitFluxError(
      code,
      `Expected a readable value for "${option}" but reading it failed`,
      { option },
      { cause },
    );
  }
}

/**
 * The fields of an object, each read once; those that are undefined are left out. A field `signal` is checked, too.
 * @param option what messages call the object
 * @throws ERR_JITFLUX_INVALID_ARGUMENT if it is no object or cannot be read
 */
export function readFields<T extends object>(
  value: T,
  option: string,
  names: Names<T>,
  expected = 'an object',
): T {
  if (typeof value !== 'object' || value === null) throw invalidArgument(option, expected, value);
  const fields: Record<string, unknown> = {};
  for (const name of Object.keys(names)) {
    const field = reading(name, () => (value as Record<string, unknown>)[name]);
    if (name === 'signal') checkSignal(field);
    if (field !== undefined) fields[name] = field;
  }
  return fields as T;
}

/** Of a name in a message. */
const LONGEST_NAME = 100;

/**
 * {@link readFields} of an object of options: one that nobody knows is refused, because it is a misspelt one.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT
 */
export function readOptions<T extends object>(value: T, names: Names<T>, option = 'options'): T {
  const fields = readFields(value, option, names);
  for (const name of reading(option, () => Object.keys(value))) {
    if (Object.hasOwn(names, name)) continue;
    const known = Object.keys(names);
    const near = known.find((other) => other.toLowerCase() === name.toLowerCase());
    throw new JitFluxError(
      ERROR_CODES.INVALID_ARGUMENT,
      `Unknown option ${JSON.stringify(name.slice(0, LONGEST_NAME))}; ` +
        (near === undefined ? `known options are ${known.join(', ')}` : `did you mean "${near}"?`),
      { option: name, known },
    );
  }
  return fields;
}

/** Given to the constructors that only this package calls. The package does not export it. */
export const OURS: unique symbol = Symbol('jit-flux');

/**
 * Refuses a construction by anybody else. TypeScript does it by `private`, of which JavaScript knows nothing.
 * @param key {@link OURS}
 * @param type the class
 * @param instead what makes such an object
 * @throws ERR_JITFLUX_INVALID_ARGUMENT
 */
export function checkConstruction(key: unknown, type: string, instead: string): asserts key is typeof OURS {
  if (key === OURS) return;
  throw new JitFluxError(
    ERROR_CODES.INVALID_ARGUMENT,
    `${type} has no constructor for you to call; use ${instead}`,
    { type, instead },
  );
}

/** Whether a value is an array, of whatever realm. Unlike `Array.isArray` it takes a revoked Proxy for none. */
export function isArray(value: unknown): value is readonly unknown[] {
  try {
    return Array.isArray(value);
  } catch {
    return false;
  }
}

/**
 * The elements of an array, each read once. Holes are undefined.
 * @param least, most how many there may be
 * @param code of the error
 */
export function readList<V = unknown>(
  value: readonly V[],
  option: string,
  expected: string,
  [least, most]: readonly [least: number, most: number],
  code: JitFluxErrorCode = ERROR_CODES.INVALID_ARGUMENT,
): V[] {
  if (!isArray(value)) throw invalidArgument(option, expected, value, code);
  return (
    reading(
      option,
      () => {
        const length = Number(value.length);
        return length >= least && length <= most ? Array.from({ length }, (_, i) => value[i]!) : undefined;
      },
      code,
    ) ?? fail(option, expected, value, code)
  );
}

function fail(option: string, expected: string, value: unknown, code: JitFluxErrorCode): never {
  throw invalidArgument(option, expected, value, code);
}

/** Deepest nesting of plain data. */
const DEEPEST = 16;

/**
 * A copy of plain data: objects, lists, strings, finite numbers, booleans and null. Every field is read once; those that are
 * undefined are left out.
 * @param most values in all
 * @throws ERR_JITFLUX_INVALID_ARGUMENT for anything else, and for more of it
 */
export function readPlain(value: unknown, option: string, most: number): unknown {
  let left = most;
  const copy = (part: unknown, depth: number): unknown => {
    if (typeof part === 'string' || typeof part === 'boolean' || part === null) return part;
    if (typeof part === 'number' && Number.isFinite(part)) return part + 0;
    if (typeof part !== 'object' || depth > DEEPEST) throw invalidArgument(option, 'plain data', part);
    if (isArray(part)) {
      const list = readList(part, option, `lists of at most ${most} values in all`, [0, left]);
      left -= list.length;
      return list.map((entry) => copy(entry, depth + 1));
    }
    const names = reading(option, () => Object.keys(part));
    left -= names.length;
    if (left < 0) throw invalidArgument(option, `at most ${most} values in all`, part);
    const fields: [string, unknown][] = [];
    for (const name of names) {
      const field = reading(name, () => (part as Record<string, unknown>)[name]);
      if (field !== undefined) fields.push([name, copy(field, depth + 1)]);
    }
    return Object.fromEntries(fields);
  };
  return copy(value, 0);
}

/** @throws ERR_JITFLUX_INVALID_ARGUMENT stating the range */
export function checkInteger(option: string, value: unknown, least: number, most: number): number {
  if (Number.isInteger(value) && (value as number) >= least && (value as number) <= most)
    // No -0.
    return (value as number) + 0;
  throw invalidArgument(option, `an integer from ${least} to ${most}`, value);
}

/** @throws ERR_JITFLUX_INVALID_ARGUMENT unless it is a number that `valid` takes */
export function checkNumber(
  option: string,
  value: unknown,
  expected: string,
  valid: (value: number) => boolean,
): number {
  if (typeof value === 'number' && valid(value)) return value;
  throw invalidArgument(option, expected, value);
}

/** A factor of float32 values. @throws ERR_JITFLUX_INVALID_ARGUMENT unless it is finite there, too */
export function checkFloat(option: string, value: unknown): number {
  return checkNumber(option, value, 'a number that is finite in float32', (v) =>
    Number.isFinite(Math.fround(v)),
  );
}

/** @throws ERR_JITFLUX_INVALID_ARGUMENT */
export function checkBoolean(option: string, value: unknown): boolean {
  if (typeof value === 'boolean') return value;
  throw invalidArgument(option, 'true or false', value);
}

/** Checks a callback that may be absent. @throws ERR_JITFLUX_INVALID_ARGUMENT */
export function checkCallback<F extends (...args: never[]) => unknown>(
  option: string,
  value: F | undefined,
): F | undefined {
  if (value === undefined || typeof value === 'function') return value;
  throw invalidArgument(option, 'a function', value);
}

/** Linux opens no longer path: PATH_MAX, with the NUL at its end. */
const MOST_PATH_BYTES = 4095;

/**
 * Checks the path of a file or directory. One that no system takes is refused here, before it fills messages.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT
 */
export function checkPath(option: string, value: unknown, expected = 'a path'): string {
  const isPath = typeof value === 'string' && value !== '' && !value.includes('\0');
  if (isPath && Buffer.byteLength(value) <= MOST_PATH_BYTES) return value;
  const limits = `is not empty, has no NUL and at most ${MOST_PATH_BYTES} bytes`;
  throw invalidArgument(option, `${expected}: a string that ${limits}`, value);
}

const VIEW = Object.getPrototypeOf(Uint8Array.prototype) as object;
const typeOfView = Object.getOwnPropertyDescriptor(VIEW, Symbol.toStringTag)!.get!;

/** `'Float32Array'` and so on; undefined for what is no typed array. Cannot be deceived, and runs nothing of the value's. */
export function typedArrayKind(value: unknown): string | undefined {
  return typeOfView.call(value) as string | undefined;
}

/** Kinds of lists that are copied out of the caller's memory. */
interface Views {
  Int32Array: Int32Array;
  Float32Array: Float32Array;
}
const CONSTRUCTORS = { Int32Array, Float32Array };

/**
 * A copy of a typed array of this very kind, of whatever realm or subclass; undefined for anything else. Its memory may be
 * shared with another thread, detached, or shrink later. No method of the array itself is called.
 */
export function copyOf<K extends keyof Views>(kind: K, value: unknown): Views[K] | undefined {
  if (typeOfView.call(value) !== kind) return undefined;
  try {
    return new CONSTRUCTORS[kind](value as Views[K] & ArrayLike<number>) as Views[K];
  } catch {
    return undefined; // detached, out of bounds, or no memory for it
  }
}
