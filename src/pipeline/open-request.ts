import { traceGenerate, type GenerateTrace } from '../diagnostics.js';
import { ERROR_CODES, isJitFluxError } from '../errors.js';
import { withJson } from '../json.js';
import { Activity } from './activity.js';
import type { ResolvedRequest } from './request.js';
import type { Outcome, PipelineStatistics } from './statistics.js';
import type { GenerateResult } from './types.js';

let lastId = 0;

/** A request from its arrival to its end: its signal, its time in the queue, its trace and its place in the statistics. */
export class OpenRequest {
  readonly request: ResolvedRequest;
  readonly activity: Activity;
  readonly trace: GenerateTrace;
  readonly #statistics: PipelineStatistics;
  readonly #arrived = performance.now();
  #started: number | undefined;
  #ended = false;
  #settle!: { resolve(result: GenerateResult): void; reject(error: unknown): void };
  /** The outcome. For a request that is left before its end, an ERR_JITFLUX_ABORTED. */
  readonly outcome: Promise<GenerateResult>;

  constructor(
    request: ResolvedRequest,
    { model, statistics }: { model: string; statistics: PipelineStatistics },
  ) {
    this.request = request;
    this.activity = new Activity(request.signal);
    this.#statistics = statistics;
    const { plan, width, height, images } = request;
    this.trace = { id: ++lastId, model, preset: plan.preset, width, height, images, steps: plan.steps };
    this.outcome = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
    });
    // Whether anybody looks at it is not known yet.
    this.outcome.catch(() => undefined);
    traceGenerate(this.trace, () => this.outcome);
  }

  get signal(): AbortSignal {
    return this.activity.signal;
  }

  get ended(): boolean {
    return this.#ended;
  }

  /** Its turn has come. */
  start(): void {
    this.#started = performance.now();
  }

  get isRunning(): boolean {
    return this.#started !== undefined && !this.#ended;
  }

  complete({ timings, ...rest }: Omit<GenerateResult, 'timings'> & { timings: object }): GenerateResult {
    const queued = (this.#started ?? this.#arrived) - this.#arrived;
    const result = withJson({ ...rest, timings: { queued, ...timings } } as GenerateResult);
    if (this.#end()) {
      this.#statistics.completed(result, this.request.images);
      this.#settle.resolve(result);
    }
    return result;
  }

  fail(error: unknown): void {
    if (!this.#end()) return;
    this.#statistics.ended(outcomeOf(error));
    this.#settle.reject(error);
  }

  #end(): boolean {
    if (this.#ended) return false;
    return (this.#ended = true);
  }
}

function outcomeOf(error: unknown): Outcome {
  const code = isJitFluxError(error) ? error.code : undefined;
  if (code === ERROR_CODES.ABORTED) return 'aborted';
  return code === ERROR_CODES.QUEUE_FULL ? 'rejected' : 'failed';
}
