/** Waiting for callers' AbortSignals, and not beyond them. */
import { abortedError, throwIfAborted } from './errors.js';

// As they are, whatever a subclass makes of them.
// eslint-disable-next-line @typescript-eslint/unbound-method -- called on the signal
const { addEventListener, removeEventListener } = EventTarget.prototype;

/** Everything that waits for one signal, under one listener. */
class Waiting {
  readonly #signal: AbortSignal;
  readonly #entries = new Set<() => void>();
  readonly #fire = (): void => {
    hubs.delete(this.#signal);
    // One of them may end another.
    for (const entry of [...this.#entries]) if (this.#entries.delete(entry)) entry();
  };

  constructor(signal: AbortSignal) {
    this.#signal = signal;
    addEventListener.call(signal, 'abort', this.#fire, { once: true });
  }

  add(entry: () => void): void {
    this.#entries.add(entry);
  }

  delete(entry: () => void): void {
    if (!this.#entries.delete(entry) || this.#entries.size > 0) return;
    if (hubs.get(this.#signal) !== this) return;
    hubs.delete(this.#signal);
    removeEventListener.call(this.#signal, 'abort', this.#fire);
  }
}

const hubs = new WeakMap<AbortSignal, Waiting>();

/**
 * Calls `callback` once when the signal fires; never, if it has fired already. However many requests share a signal, it has
 * one listener: Node warns of a leak where there are more than ten.
 * @returns ends the waiting; calling it again does nothing
 */
export function onAbort(signal: AbortSignal | undefined, callback: () => void): () => void {
  if (signal === undefined || signal.aborted) return () => undefined;
  let hub = hubs.get(signal);
  if (hub === undefined) hubs.set(signal, (hub = new Waiting(signal)));
  // A function of its own: the same callback may wait twice.
  const entry = (): void => callback();
  const joined = hub;
  joined.add(entry);
  return () => joined.delete(entry);
}

/**
 * What a piece of work gives, or ERR_JITFLUX_ABORTED as soon as the signal fires, however long the work takes to notice: for
 * work that leaves nothing behind when nobody waits for it.
 */
export async function untilAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return work;
  let leave: (() => void) | undefined;
  try {
    return await Promise.race([
      work,
      new Promise<never>((_, reject) => {
        const abort = () => reject(abortedError(signal));
        leave = onAbort(signal, abort);
        if (signal.aborted) abort();
      }),
    ]);
  } finally {
    leave?.();
    // What it says afterwards nobody hears.
    work.catch(() => undefined);
  }
}

/**
 * What a piece of work gives, or ERR_JITFLUX_ABORTED if the signal has fired by then, whatever became of the work. For work
 * that must have ended when the promise settles, because it uses what belongs to the caller: a mapped file, say.
 */
export async function abortedFirst<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  try {
    return await work;
  } finally {
    throwIfAborted(signal);
  }
}
