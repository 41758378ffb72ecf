import { checkInteger, readFields } from '../arguments.js';
import { MAX_IMAGES } from '../model/run.js';
import type { QueueOptions } from './request-queue.js';
import { DEFAULT_MAX_QUEUE, type PipelineOptions } from './types.js';

const MOST_AT_A_TIME = 64;
const MOST_WAITING = 1_000_000;
const LONGEST_WAIT_MILLISECONDS = 60_000;

/**
 * Checks how a pipeline shall serve its requests.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT
 */
export function queueOptions(o: {
  [Name in 'concurrency' | 'maxQueue' | 'dynamicBatching']?: PipelineOptions[Name] | undefined;
}): Required<QueueOptions> {
  const { concurrency = 1, maxQueue = DEFAULT_MAX_QUEUE, dynamicBatching } = o;
  checkInteger('concurrency', concurrency, 1, MOST_AT_A_TIME);
  if (maxQueue !== Infinity) checkInteger('maxQueue', maxQueue, 0, MOST_WAITING);
  if (dynamicBatching === undefined) return { concurrency, maxQueue, batching: undefined };
  const names = { maxImages: true, maxWaitMilliseconds: true } as const;
  const { maxImages, maxWaitMilliseconds = 0 } = readFields<NonNullable<PipelineOptions['dynamicBatching']>>(
    dynamicBatching,
    'dynamicBatching',
    names,
    '{ maxImages, maxWaitMilliseconds }',
  );
  checkInteger('dynamicBatching.maxImages', maxImages, 2, MAX_IMAGES);
  checkInteger('dynamicBatching.maxWaitMilliseconds', maxWaitMilliseconds, 0, LONGEST_WAIT_MILLISECONDS);
  return { concurrency, maxQueue, batching: { maxImages, maxWaitMilliseconds } };
}
