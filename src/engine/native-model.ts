import type { OURS } from '../arguments.js';
import { ERROR_CODES, JitFluxError } from '../errors.js';
import type { AnyHandle } from './binding.js';
import { callNative, type JobOptions, runNative } from './call.js';
import { JobGroup } from './job-group.js';
import { NativeObject } from './native-object.js';

/**
 * A loaded model. `dispose()` aborts what it is doing (those calls reject with ERR_JITFLUX_ABORTED, whose cause is an
 * ERR_JITFLUX_DISPOSED) and frees its memory as soon as that has stopped; `[Symbol.asyncDispose]()` waits until it has.
 * A model that is garbage-collected instead is freed all the same, with one warning per process (`JITFLUX_UNDISPOSED`).
 */
export abstract class NativeModel<H extends AnyHandle> extends NativeObject<H> implements AsyncDisposable {
  readonly #name: string;
  readonly #jobs = new JobGroup();

  /** @internal Takes ownership of the handle. */
  protected constructor(key: typeof OURS, handle: H, name: string) {
    super(key, handle, name, `${new.target.name}.load`);
    this.#name = name;
    undisposed.register(this, { handle, name }, this);
  }

  /** @internal `runNative` for a job that uses this model. */
  protected runJob<R>(call: Parameters<typeof runNative<R>>[0], o: JobOptions = {}): Promise<R> {
    return runNative(call, { ...o, group: this.#jobs });
  }

  override dispose(): void {
    if (this.disposed) return;
    undisposed.unregister(this);
    this.#jobs.end(new JitFluxError(ERROR_CODES.DISPOSED, `The ${this.#name} has been disposed`));
    super.dispose();
  }

  /** {@link dispose}, and waits until nothing of it is running any more. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.dispose();
    await this.#jobs.idle();
  }
}

let warned = false;

/**
 * Keeps the handles of undisposed models, so that they are freed where `dispose` would have done it, and not by a
 * finaliser on this thread.
 */
const undisposed = new FinalizationRegistry<{ handle: AnyHandle; name: string }>(({ handle, name }) => {
  callNative((binding) => binding.release(handle));
  if (warned) return;
  warned = true;
  process.emitWarning(`A ${name} was garbage-collected while it was loaded`, {
    code: 'JITFLUX_UNDISPOSED',
    detail:
      'Its memory is freed only when the garbage collector happens to run: dispose models and pipelines.',
  });
});
