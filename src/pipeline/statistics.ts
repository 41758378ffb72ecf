/** What a pipeline has done so far, for a service's metrics. */
import { createHistogram, type RecordableHistogram } from 'node:perf_hooks';

import type { GenerateResult } from './types.js';

/** Distribution of a duration, in milliseconds, exact to about one percent. All 0 while `count` is. */
export interface Durations {
  count: number;
  mean: number;
  min: number;
  max: number;
  p50: number;
  p95: number;
  p99: number;
}

/** A part of a request that is timed. */
export type Phase = 'queued' | 'encode' | 'condition' | 'sample' | 'decode' | 'total';
const PHASES: readonly Phase[] = ['queued', 'encode', 'condition', 'sample', 'decode', 'total'];

/** How a request ended. */
export type Outcome = 'completed' | 'aborted' | 'failed' | 'rejected';

/** A snapshot; plain data. Counts are since the pipeline was loaded. */
export interface PipelineStats {
  uptimeMilliseconds: number;
  limits: { concurrency: number; maxQueue: number; maxBatchImages: number };
  requests: Record<Outcome, number> & {
    /** At work now, members of a batch each. */
    running: number;
    /** In the queue now. */
    waiting: number;
  };
  /** Pictures, or latents, of completed requests. */
  images: number;
  /** Sampling runs; a batch of requests is one. */
  runs: number;
  /** Sampling steps of all runs, those that did not end well included. */
  steps: number;
  /**
   * Of completed requests. `total` does not include `queued`. Requests that were served together each count the whole of
   * their common time.
   */
  milliseconds: Record<Phase, Durations>;
}

/** A day; longer ones count as one. */
const LONGEST_MICROSECONDS = 24 * 3600 * 1e6;

export class PipelineStatistics {
  readonly #since = performance.now();
  readonly #outcomes: Record<Outcome, number> = { completed: 0, aborted: 0, failed: 0, rejected: 0 };
  readonly #histograms: Record<Phase, RecordableHistogram>;
  images = 0;
  runs = 0;
  steps = 0;

  constructor() {
    const create = () => createHistogram({ lowest: 1, highest: LONGEST_MICROSECONDS, figures: 2 });
    this.#histograms = Object.fromEntries(PHASES.map((phase) => [phase, create()])) as Record<
      Phase,
      RecordableHistogram
    >;
  }

  ended(outcome: Outcome): void {
    this.#outcomes[outcome]++;
  }

  completed({ timings }: GenerateResult, images: number): void {
    this.ended('completed');
    this.images += images;
    const sample = timings.stages.reduce((sum, { milliseconds }) => sum + milliseconds, 0);
    for (const phase of PHASES) {
      const milliseconds = phase === 'sample' ? sample : timings[phase];
      const microseconds = Math.min(Math.max(1, Math.round(milliseconds * 1000)), LONGEST_MICROSECONDS);
      this.#histograms[phase].record(microseconds);
    }
  }

  snapshot(now: Pick<PipelineStats, 'limits'> & { running: number; waiting: number }): PipelineStats {
    const { limits, running, waiting } = now;
    const { images, runs, steps } = this;
    return {
      uptimeMilliseconds: performance.now() - this.#since,
      limits,
      requests: { running, waiting, ...this.#outcomes },
      images,
      runs,
      steps,
      milliseconds: Object.fromEntries(
        PHASES.map((phase) => [phase, durationsOf(this.#histograms[phase])]),
      ) as Record<Phase, Durations>,
    };
  }
}

function durationsOf(histogram: RecordableHistogram): Durations {
  const { count } = histogram;
  if (count === 0) return { count, mean: 0, min: 0, max: 0, p50: 0, p95: 0, p99: 0 };
  const percentile = (share: number) => histogram.percentile(share) / 1000;
  return {
    count,
    mean: histogram.mean / 1000,
    min: histogram.min / 1000,
    max: histogram.max / 1000,
    p50: percentile(50),
    p95: percentile(95),
    p99: percentile(99),
  };
}
