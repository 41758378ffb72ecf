/**
 * What this package publishes through node:diagnostics_channel, for tracing and metrics (docs/embedding.md). Nothing is
 * computed for channels without subscribers.
 *
 * - tracing channel `jit-flux.load`: {@link LoadTrace}, one per `FluxPipeline.load`
 * - tracing channel `jit-flux.generate`: {@link GenerateTrace}, one per request, its time in the queue included
 * - channel `jit-flux.step`: {@link StepTrace}, one per sampling step
 *
 * A tracing channel publishes `start` and `end` when the work begins, `error` if it fails, and `asyncStart` and
 * `asyncEnd` when it is over; all with the same object.
 */
import { channel, tracingChannel } from 'node:diagnostics_channel';

/** Of `FluxPipeline.load`. */
export interface LoadTrace {
  model: string;
  error?: unknown;
}

/** Of one request. */
export interface GenerateTrace {
  /** Unique in this process. */
  id: number;
  /** Name of the model. */
  model: string;
  preset: string;
  width: number;
  height: number;
  images: number;
  steps: number;
  /** Once it is over, unless it failed: its timings in milliseconds, time in the queue included. */
  result?: { timings: object };
  error?: unknown;
}

/** Of one sampling step. */
export interface StepTrace {
  /** The requests that it served: the very objects of the tracing channel `jit-flux.generate`. */
  requests: readonly GenerateTrace[];
  step: number;
  steps: number;
  stage: number;
  sigma: number;
  activeTokens: number;
  totalTokens: number;
  milliseconds: number;
}

const loads = tracingChannel<unknown, LoadTrace>('jit-flux.load');
const generations = tracingChannel<unknown, GenerateTrace>('jit-flux.generate');
const steps = channel('jit-flux.step');

/** Runs `load` within a trace. */
export function traceLoad<R>(trace: LoadTrace, load: () => Promise<R>): Promise<R> {
  return loads.tracePromise(load, trace);
}

/** Traces a request until the promise settles. */
export function traceGenerate(trace: GenerateTrace, outcome: () => Promise<{ timings: object }>): void {
  // The promise that is traced is somebody else's to handle.
  generations.tracePromise(outcome, trace).catch(() => undefined);
}

export function publishStep(message: () => StepTrace): void {
  if (steps.hasSubscribers) steps.publish(message());
}
