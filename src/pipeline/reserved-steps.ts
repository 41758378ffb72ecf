import type { StepEvent } from '../types.js';
import type { Tensor } from '../engine/index.js';
import type { Reservation } from './request-queue.js';
import type { GenerateResult } from './types.js';

type Steps = AsyncGenerator<StepEvent<Tensor>, GenerateResult, undefined>;

/** Room that nobody will use any more. */
const forgotten = new FinalizationRegistry<Reservation>((room) => room.cancel());

/**
 * The steps of a request that has its room in the queue, but takes its turn with the first `next()` only. A generator that
 * is left before it began runs no code of its own: the room is given up here, also if the object is just forgotten.
 */
export class ReservedSteps implements Steps {
  readonly #steps: Steps;
  readonly #room: Reservation;

  constructor(steps: Steps, room: Reservation) {
    this.#steps = steps;
    this.#room = room;
    forgotten.register(this, room);
  }

  next(): Promise<IteratorResult<StepEvent<Tensor>, GenerateResult>> {
    return this.#steps.next();
  }

  return(
    value: GenerateResult | PromiseLike<GenerateResult>,
  ): Promise<IteratorResult<StepEvent<Tensor>, GenerateResult>> {
    this.#room.cancel();
    return this.#steps.return(value);
  }

  throw(error: unknown): Promise<IteratorResult<StepEvent<Tensor>, GenerateResult>> {
    this.#room.cancel();
    return this.#steps.throw(error);
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return(undefined as never);
  }
}
