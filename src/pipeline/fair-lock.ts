import { abortedError, throwIfAborted } from '../errors.js';

/** A lock that is granted in the order of asking. */
export class FairLock {
  #held = false;
  readonly #waiting: (() => void)[] = [];

  /** Number of callers that wait. */
  get waiting(): number {
    return this.#waiting.length;
  }

  /**
   * Waits for the lock. An aborted caller leaves the queue at once.
   * @returns releases the lock; calling it again does nothing
   */
  async acquire(signal?: AbortSignal): Promise<() => void> {
    throwIfAborted(signal);
    if (this.#held) {
      await new Promise<void>((resolve, reject) => {
        const leave = () => {
          this.#waiting.splice(this.#waiting.indexOf(enter), 1);
          reject(abortedError(signal));
        };
        const enter = () => {
          signal?.removeEventListener('abort', leave);
          resolve();
        };
        this.#waiting.push(enter);
        signal?.addEventListener('abort', leave, { once: true });
      });
    }
    // When it is handed over, it stays held in between, so that nobody can overtake.
    this.#held = true;
    let released = false;
    return () => {
      if (released) return;
      released = true;
      const next = this.#waiting.shift();
      if (next) next();
      else this.#held = false;
    };
  }
}
