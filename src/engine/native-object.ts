import { checkConstruction, type OURS } from '../arguments.js';
import { ERROR_CODES, invalidArgument, JitFluxError } from '../errors.js';
import type { AnyHandle } from './binding.js';
import { callNative } from './call.js';

/**
 * A JavaScript object that owns a share of a native one. Dispose it when done; the garbage collector is the safety
 * net. Work in flight keeps its own share, so disposing never pulls memory from under it.
 */
export abstract class NativeObject<H extends AnyHandle> implements Disposable {
  readonly #name: string;
  #handle: H | undefined;

  /**
   * @internal Takes ownership of the handle.
   * @param name for the message of ERR_JITFLUX_DISPOSED
   * @param instead what callers use in place of the constructor
   */
  protected constructor(key: typeof OURS, handle: H, name: string, instead: string) {
    checkConstruction(key, new.target.name, instead);
    this.#handle = handle;
    this.#name = name;
  }

  /** @internal Throws ERR_JITFLUX_DISPOSED after {@link dispose}. */
  get handle(): H {
    if (this.#handle === undefined) {
      throw new JitFluxError(ERROR_CODES.DISPOSED, `The ${this.#name} was used after dispose()`);
    }
    return this.#handle;
  }

  /** @internal Whether a value is one of these, and no object that only looks like it. */
  static owns(value: unknown): value is NativeObject<AnyHandle> {
    return typeof value === 'object' && value !== null && #handle in value;
  }

  get disposed(): boolean {
    return this.#handle === undefined;
  }

  /** Frees the native memory as soon as no pending operation needs it. Idempotent. */
  dispose(): void {
    const handle = this.#handle;
    if (handle === undefined) return;
    this.#handle = undefined;
    callNative((binding) => binding.release(handle));
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/**
 * The handle of an argument.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT if it is none of our objects, ERR_JITFLUX_DISPOSED
 */
export function handleOf<H extends AnyHandle>(
  value: { readonly handle: H },
  option: string,
  expected = 'a Tensor',
): H {
  if (!NativeObject.owns(value)) throw invalidArgument(option, expected, value);
  return value.handle;
}
