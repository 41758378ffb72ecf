import { onAbort } from '../abort.js';
import { throwIfAborted } from '../errors.js';

/**
 * One request in progress: it can be aborted by its caller's signal or by the pipeline's disposal, and it is busy
 * except while its consumer holds the control (between two steps of `FluxPipeline.steps`).
 */
export class Activity {
  readonly #controller = new AbortController();
  readonly #leave: () => void;
  readonly #waiters: (() => void)[] = [];
  #busy = true;

  constructor(signal: AbortSignal | undefined) {
    const forward = () => this.#controller.abort(signal?.reason);
    this.#leave = onAbort(signal, forward);
    if (signal?.aborted) forward();
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  abort(reason: unknown): void {
    this.#controller.abort(reason);
  }

  /** The consumer has the control: no native work is in flight. */
  pause(): void {
    this.#busy = false;
    for (const waiter of this.#waiters.splice(0)) waiter();
  }

  /** @throws ERR_JITFLUX_ABORTED if it was aborted meanwhile */
  resume(): void {
    throwIfAborted(this.signal);
    this.#busy = true;
  }

  end(): void {
    this.#leave();
    this.pause();
  }

  /** Resolves as soon as no work is in flight. */
  async idle(): Promise<void> {
    if (this.#busy) await new Promise<void>((resolve) => this.#waiters.push(resolve));
  }
}
