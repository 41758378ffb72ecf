import { withJson } from '../json.js';
import type { StepEvent, TensorLike } from '../types.js';

/**
 * An event from its facts and its function, which does not show: events are compared, copied and sent to threads as the plain
 * data that they are otherwise.
 */
export function stepEvent<T extends TensorLike>(
  facts: Omit<StepEvent<T>, 'clean'>,
  clean: StepEvent<T>['clean'],
): StepEvent<T> {
  Object.defineProperty(facts, 'clean', { value: clean, configurable: true, writable: true });
  return withJson(facts as StepEvent<T>);
}
