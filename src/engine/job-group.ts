import { throwIfAborted } from '../errors.js';

/** The native jobs of one owner: ended together, and waited for together. */
export class JobGroup {
  readonly #controller = new AbortController();
  readonly #running = new Set<() => void>();
  #waiters: (() => void)[] = [];

  /** Fires with {@link end}. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /**
   * Notes that a job begins.
   * @param abort called by {@link end} while the job runs
   * @returns to be called when the job is over
   * @throws ERR_JITFLUX_ABORTED after {@link end}
   */
  begin(abort: () => void): () => void {
    throwIfAborted(this.signal);
    this.#running.add(abort);
    return () => {
      this.#running.delete(abort);
      if (this.#running.size > 0) return;
      for (const waiter of this.#waiters.splice(0)) waiter();
    };
  }

  /** Aborts what runs and refuses what comes. */
  end(reason: unknown): void {
    this.#controller.abort(reason);
    for (const abort of this.#running) abort();
  }

  /** Resolves as soon as no job runs. */
  async idle(): Promise<void> {
    if (this.#running.size > 0) await new Promise<void>((resolve) => this.#waiters.push(resolve));
  }
}
