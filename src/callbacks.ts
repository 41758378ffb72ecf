/**
 * Callbacks that users hand over may return promises, whatever their type says: one that rejects while nobody waits for it
 * ends the process.
 */
import { onAbort } from './abort.js';

/** Calls `failed` if what a callback returned is a promise that rejects. Nobody waits for it. */
export function whenRejected(returned: unknown, failed: (error: unknown) => void): void {
  if (mayBePromise(returned)) Promise.resolve(returned).catch(failed);
}

/**
 * Waits for the promise that a callback may have returned, but not beyond an abort.
 * @throws what it rejects with
 */
export async function settled(returned: unknown, signal: AbortSignal): Promise<void> {
  if (!mayBePromise(returned)) return;
  let leave: (() => void) | undefined;
  try {
    await new Promise<void>((resolve, reject) => {
      leave = onAbort(signal, resolve);
      if (signal.aborted) resolve();
      Promise.resolve(returned).then(() => resolve(), reject);
    });
  } finally {
    leave?.();
  }
}

/** Promise.resolve reads the `then` of anything with care. */
function mayBePromise(value: unknown): boolean {
  return (typeof value === 'object' && value !== null) || typeof value === 'function';
}
