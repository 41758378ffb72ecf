/**
 * What results are in JSON, in one place; docs/embedding.md says it to users. A whole number that a JavaScript number does
 * not hold exactly is a string of its digits, and a typed array is a list. Everything else is as `JSON.stringify` has it.
 */

/** Deepest nesting that is looked into. No result is that deep; what goes in circles, `JSON.stringify` refuses. */
const DEEPEST = 16;

/** A whole number, such as a seed: a number where that is exact, else its decimal digits. */
export function jsonInteger(value: number | bigint): number | string {
  if (typeof value === 'number') return value;
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value.toString();
}

/** A value without its fields and elements; a replacer of `JSON.stringify` calls it for each of those. */
export function jsonValue(value: unknown): unknown {
  if (typeof value === 'bigint') return jsonInteger(value);
  if (ArrayBuffer.isView(value) && !(value instanceof DataView)) {
    return Array.from(value as unknown as ArrayLike<number | bigint>, jsonValue);
  }
  return value;
}

/** The fields of an object, as JSON has them. */
export function jsonFields(object: object, depth = DEEPEST): Record<string, unknown> {
  return Object.fromEntries(Object.entries(object).map(([name, value]) => [name, within(value, depth)]));
}

function within(value: unknown, depth: number): unknown {
  const simple = jsonValue(value);
  if (simple !== value || typeof value !== 'object' || value === null || depth === 0) return simple;
  if (Array.isArray(value)) return value.map((element) => within(element, depth - 1));
  const prototype: unknown = Object.getPrototypeOf(value);
  // Objects of classes, and results in results, know it themselves.
  const isPlain = prototype === Object.prototype && !Object.hasOwn(value, 'toJSON');
  return isPlain ? jsonFields(value, depth - 1) : value;
}

/**
 * Lets `JSON.stringify` write a result by this rule. The function does not show: the result is copied, compared and sent to
 * threads as a plain object.
 */
export function withJson<T extends object>(result: T): T {
  return Object.defineProperty(result, 'toJSON', {
    value(this: object) {
      return jsonFields(this);
    },
    enumerable: false,
    configurable: true,
    writable: true,
  });
}
