/** The two ways into native code: a synchronous call, and a job with cancellation and progress. */
import { onAbort } from '../abort.js';
import {
  ERROR_CODES,
  isError,
  isJitFluxError,
  JitFluxError,
  throwIfAborted,
  type JitFluxErrorCode,
} from '../errors.js';
import { whenRejected } from '../callbacks.js';
import type { ControlBinding, NativeBinding, NativeJob, WeightsBinding } from './binding.js';
import type { JobGroup } from './job-group.js';
import { loadNative, loadWeightsLibrary } from './load.js';

const KNOWN_CODES = new Set<string>(Object.values(ERROR_CODES));

/** The native engine; loads it on first use. */
export function native(): NativeBinding {
  return loadNative();
}

/** Runs a synchronous native call; its errors become {@link JitFluxError}. */
export function callNative<R>(call: (binding: NativeBinding) => R): R {
  return callBinding(native(), call);
}

/** The same in the weights library, which needs no LibTorch. */
export function callWeights<R>(call: (binding: WeightsBinding) => R): R {
  return callBinding(loadWeightsLibrary(), call);
}

function callBinding<B, R>(binding: B, call: (binding: B) => R): R {
  try {
    return call(binding);
  } catch (error) {
    throw asJitFluxError(error);
  }
}

export interface JobOptions {
  signal?: AbortSignal | undefined;
  progress?: NonNullable<NativeJob['progress']> | undefined;
  /** Whoever ends with it: a loaded model. */
  group?: JobGroup | undefined;
}

/**
 * Runs an asynchronous native call. Aborting the signal raises a flag that the inference thread polls between
 * transformer blocks; the promise then rejects with ERR_JITFLUX_ABORTED.
 */
export function runNative<R>(
  call: (binding: NativeBinding, job: NativeJob | undefined) => Promise<R>,
  options: JobOptions = {},
): Promise<R> {
  return runJob(native, call, options);
}

/** The same in the weights library, which needs no LibTorch and has a worker thread of its own. */
export function runWeights<R>(
  call: (binding: WeightsBinding, job: NativeJob | undefined) => Promise<R>,
  options: JobOptions = {},
): Promise<R> {
  return runJob(loadWeightsLibrary, call, options);
}

async function runJob<B extends ControlBinding, R>(
  load: () => B,
  call: (binding: B, job: NativeJob | undefined) => Promise<R>,
  { signal, progress, group }: JobOptions,
): Promise<R> {
  throwIfAborted(signal);
  const binding = load();
  if (signal === undefined && progress === undefined && group === undefined) {
    try {
      return await call(binding, undefined);
    } catch (error) {
      throw asJitFluxError(error);
    }
  }
  const job: NativeJob = { abort: binding.createAbortFlag() };
  const stop = (): void => binding.raiseAbortFlag(job.abort!);
  let rejected: { error: unknown } | undefined;
  if (progress !== undefined) {
    job.progress = (...report) => {
      whenRejected(progress(...report), (error) => {
        rejected ??= { error };
        stop();
      });
    };
  }
  const end = group?.begin(stop);
  let leave: (() => void) | undefined;
  try {
    leave = onAbort(signal, stop);
    const result = await call(binding, job);
    if (rejected) throw rejected.error;
    return result;
  } catch (error) {
    if (rejected) throw rejected.error;
    throw asJitFluxError(error, signal?.aborted === true ? signal : group?.signal);
  } finally {
    // First: whoever waits for the group does so whatever the caller's signal does.
    end?.();
    leave?.();
  }
}

/** Native errors carry a code and details; what a progress callback threw passes through unchanged. */
export function asJitFluxError(error: unknown, signal?: AbortSignal): unknown {
  if (isJitFluxError(error) || !isError(error, Error)) return error;
  const { code, details } = error as Error & { code?: unknown; details?: Record<string, unknown> };
  if (typeof code !== 'string' || !KNOWN_CODES.has(code)) return error;
  const cause: unknown = code === ERROR_CODES.ABORTED ? signal?.reason : error;
  return new JitFluxError(code as JitFluxErrorCode, error.message, details, { cause });
}
