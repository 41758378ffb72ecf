/**
 * A call with good arguments, and what a case changes in them: which part, what stands there instead, and how it is
 * handed over (as a value, by a getter that throws, by one that does something else meanwhile, through a Proxy ...).
 */
import { types } from 'node:util';
import fc from 'fast-check';

import { HOSTILE, type OwnValues, resizableBuffer, type Value, valueOf, values } from './values.js';

/** A way to a part of an argument list: indices and names. Empty: the list itself, which gets one more argument. */
export type Path = readonly (string | number)[];

/** How a part is handed over. */
export const MANNERS = [
  'value',
  'missing',
  'getter',
  'throws',
  'throws the value',
  'first good, then hostile',
  'first hostile, then good',
  'disposes the arguments',
  'disposes the model',
  'starts another',
  'changes the others',
  'shrinks the buffers',
] as const;
export type Manner = (typeof MANNERS)[number];

/** What the object around the part is made into. */
export const WRAPPERS = [
  'plain',
  'frozen',
  'null prototype',
  'class instance',
  'inherited',
  'proxy',
  'proxy with a throwing get',
  'proxy with throwing keys',
  'proxy that is revoked at the first look',
] as const;
export type Wrapper = (typeof WRAPPERS)[number];

/** What a case changes in the arguments. */
export interface Change {
  /** Which of the parts, modulo their number. */
  readonly part: number;
  readonly value: Value;
  readonly manner: Manner;
  readonly wrapper: Wrapper;
}

/** Some changes; mostly one, as several hide each other. */
export function changes(own: readonly string[]): fc.Arbitrary<Change[]> {
  const change = fc.record({
    part: fc.nat(1000),
    value: values(own),
    manner: fc.oneof(
      { weight: 6, arbitrary: fc.constant('value' as const) },
      { weight: 4, arbitrary: fc.constantFrom(...MANNERS) },
    ),
    wrapper: fc.oneof(
      { weight: 6, arbitrary: fc.constant('plain' as const) },
      { weight: 3, arbitrary: fc.constantFrom(...WRAPPERS) },
    ),
  });
  return fc.oneof(
    { weight: 8, arbitrary: fc.tuple(change) },
    { weight: 2, arbitrary: fc.array(change, { minLength: 2, maxLength: 3 }) },
  );
}

/** What a getter can do before it answers. */
export interface Actions {
  disposeModel(): void;
  startAnother(): void;
}

function isContainer(value: unknown): value is Record<string, unknown> | unknown[] {
  // What an earlier change has put there is left as it is.
  if (typeof value !== 'object' || value === null || types.isProxy(value)) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  return Array.isArray(value) || prototype === Object.prototype || prototype === null;
}

/** Every part of the arguments that can be something else: themselves, their fields and their elements. */
export function partsOf(args: readonly unknown[]): Path[] {
  const paths: Path[] = [[]];
  const visit = (value: unknown, path: Path) => {
    if (path.length > 0) paths.push(path);
    if (!isContainer(value) || path.length > 4) return;
    for (const [key, { value: part }] of Object.entries(Object.getOwnPropertyDescriptors(value)).slice(
      0,
      40,
    )) {
      if (key !== 'length') visit(part, [...path, Array.isArray(value) ? Number(key) : key]);
    }
  };
  args.forEach((arg, i) => visit(arg, [i]));
  return paths;
}

/** Everything that can be disposed in a value; containers are looked through. */
export function disposables(value: unknown, depth = 0): { dispose(): unknown }[] {
  if (typeof value !== 'object' || value === null || types.isProxy(value) || depth > 5) return [];
  if (isContainer(value)) return fieldsOf(value).flatMap((part) => disposables(part, depth + 1));
  try {
    return typeof (value as { dispose?: unknown }).dispose === 'function'
      ? [value as { dispose(): void }]
      : [];
  } catch {
    return [];
  }
}

function buffersIn(value: unknown, depth = 0): ArrayBuffer[] {
  if (ArrayBuffer.isView(value)) return value.buffer instanceof ArrayBuffer ? [value.buffer] : [];
  if (!isContainer(value) || depth > 5) return [];
  return fieldsOf(value).flatMap((part) => buffersIn(part, depth + 1));
}

/** The values in a container, without those behind getters. */
function fieldsOf(value: object): unknown[] {
  return Object.values(Object.getOwnPropertyDescriptors(value)).map(
    (descriptor) => descriptor.value as unknown,
  );
}

/** The same list in memory that can shrink. */
function resizable(value: unknown): unknown {
  if (!(value instanceof Int32Array || value instanceof Float32Array)) return value;
  const buffer = resizableBuffer(value.byteLength, value.byteLength * 2 + 64);
  const copy = value instanceof Int32Array ? new Int32Array(buffer) : new Float32Array(buffer);
  copy.set(value);
  return copy;
}

/** Applies changes to fresh good arguments. */
export function change(
  args: unknown[],
  list: readonly Change[],
  own: OwnValues,
  actions: Actions,
): unknown[] {
  return list.reduce<unknown[]>((current, one) => {
    try {
      return changeOne(current, one, own, actions);
    } catch {
      return current; // an earlier change does not let this one happen
    }
  }, args);
}

function changeOne(args: unknown[], c: Change, own: OwnValues, actions: Actions): unknown[] {
  const paths = partsOf(args);
  const path = paths[c.part % paths.length]!;
  const hostile = valueOf(c.value, own);
  if (path.length === 0) return [...args, hostile];

  const shrinking = c.manner === 'shrinks the buffers';
  const copied = copyContainers(args, shrinking ? resizable : undefined) as unknown[];
  const holders: (Record<string | number, unknown> | unknown[])[] = [copied];
  for (const key of path.slice(0, -1)) {
    holders.push(valueAt(holders.at(-1)!, key) as Record<string, unknown>);
  }
  const holder = holders.at(-1) as Record<string | number, unknown>;
  const key = path.at(-1)!;
  const good = valueAt(holder, key);
  const get = getter(c.manner, { good, hostile, holder, key, args: copied, actions });
  // An argument of its own has no getter.
  if (holders.length === 1) {
    if (c.manner === 'missing') copied.splice(Number(key), 1);
    else copied[Number(key)] = wrap(get === undefined ? hostile : good, c.wrapper);
    return copied;
  }
  if (c.manner === 'missing') delete holder[key];
  else if (get === undefined) define(holder, key, { value: hostile, writable: true });
  else define(holder, key, { get });
  define(holders.at(-2)!, path.at(-2)!, { value: wrap(holder, c.wrapper), writable: true });
  return copied;
}

function valueAt(holder: object, key: string | number): unknown {
  return Object.getOwnPropertyDescriptor(holder, key)?.value;
}

function define(holder: object, key: string | number, descriptor: PropertyDescriptor): void {
  Object.defineProperty(holder, key, { enumerable: true, configurable: true, ...descriptor });
}

function getter(
  manner: Manner,
  o: {
    good: unknown;
    hostile: unknown;
    holder: Record<string | number, unknown>;
    key: string | number;
    args: unknown[];
    actions: Actions;
  },
): (() => unknown) | undefined {
  const { good, hostile, holder, key, args, actions } = o;
  let reads = 0;
  switch (manner) {
    case 'value':
    case 'missing':
      return undefined;
    case 'getter':
      return () => hostile;
    case 'throws':
      return () => {
        throw new TypeError(HOSTILE);
      };
    case 'throws the value':
      return () => {
        throw hostile;
      };
    case 'first good, then hostile':
      return () => (reads++ === 0 ? good : hostile);
    case 'first hostile, then good':
      return () => (reads++ === 0 ? hostile : good);
    case 'disposes the arguments':
      return () => {
        const others = Object.entries(holder).flatMap(([name, value]) =>
          name === String(key) ? [] : [value],
        );
        for (const one of [...disposables(good), ...others.flatMap((other) => disposables(other))]) {
          void one.dispose();
        }
        return good;
      };
    case 'disposes the model':
      return () => {
        actions.disposeModel();
        return good;
      };
    case 'starts another':
      return () => {
        if (reads++ === 0) actions.startAnother();
        return good;
      };
    case 'changes the others':
      return () => {
        for (const name of Object.keys(holder)) if (name !== String(key)) Reflect.set(holder, name, hostile);
        return good;
      };
    case 'shrinks the buffers':
      return () => {
        for (const buffer of new Set(buffersIn(args)))
          (buffer as { resize?: (n: number) => void }).resize?.(4);
        return good;
      };
  }
}

function copyContainers(value: unknown, leaf: (value: unknown) => unknown = (v) => v, depth = 0): unknown {
  if (!isContainer(value) || depth > 5) return leaf(value);
  const copy: Record<string, unknown> | unknown[] = Array.isArray(value) ? [] : {};
  for (const [key, descriptor] of Object.entries(Object.getOwnPropertyDescriptors(value))) {
    if (key === 'length') continue;
    if ('value' in descriptor) {
      descriptor.value = copyContainers(descriptor.value, leaf, depth + 1);
      descriptor.writable = true;
    }
    Object.defineProperty(copy, key, { ...descriptor, configurable: true });
  }
  return copy;
}

function wrap(value: unknown, wrapper: Wrapper): unknown {
  if (!isContainer(value)) return value;
  const fail = (): never => {
    throw new TypeError(HOSTILE);
  };
  const descriptors = Object.getOwnPropertyDescriptors(value) as PropertyDescriptorMap;
  switch (wrapper) {
    case 'plain':
      return value;
    case 'frozen':
      return Object.freeze(value);
    case 'null prototype':
      return Array.isArray(value) ? Object.setPrototypeOf(value, null) : Object.create(null, descriptors);
    case 'class instance':
      return Array.isArray(value)
        ? Object.setPrototypeOf(value, class extends Array {}.prototype)
        : Object.create(class Options {}.prototype, descriptors);
    case 'inherited':
      return Array.isArray(value) ? value : Object.create(value);
    case 'proxy':
      return new Proxy(value, {});
    case 'proxy with a throwing get':
      return new Proxy(value, { get: fail });
    case 'proxy with throwing keys':
      return new Proxy(value, { ownKeys: fail, getOwnPropertyDescriptor: fail, has: fail });
    case 'proxy that is revoked at the first look': {
      const { proxy, revoke } = Proxy.revocable(value, {
        get(target, key, receiver) {
          revoke();
          return Reflect.get(target, key, receiver) as unknown;
        },
      });
      return proxy;
    }
  }
}
