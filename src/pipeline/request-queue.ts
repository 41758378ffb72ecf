/** Who may work when: requests are served in the order of arrival, a limited number at a time. */
import { onAbort } from '../abort.js';
import { abortedError, ERROR_CODES, JitFluxError, throwIfAborted } from '../errors.js';

/** Requests of the same key may be served together. */
export interface Batching {
  /** Most pictures that are served together. */
  maxImages: number;
  /** How long a request whose turn it is waits for others to join, if there is still room. */
  maxWaitMilliseconds: number;
}

export interface QueueOptions {
  /** Turns at a time. Default 1. */
  concurrency?: number;
  /** Requests that may wait; more are refused. Default: any number. */
  maxQueue?: number;
  batching?: Batching | undefined;
}

/** Leave to work, for one request or for several that are served together. */
export interface Turn<T> {
  readonly members: readonly T[];
  /** Lets the next one begin. Calling it again does nothing. */
  release(): void;
}

/** Room in a queue. */
export interface Reservation {
  /**
   * Waits for the turn, as `RequestQueue.acquire`.
   * @throws ERR_JITFLUX_ABORTED
   */
  acquire(signal?: AbortSignal): Promise<() => void>;
  /** Gives the room up. Calling it again, or after `acquire`, does nothing. */
  cancel(): void;
}

interface Entry<T> {
  payload: T | undefined;
  key: string | undefined;
  images: number;
  since: number;
  /** With undefined: somebody else's turn includes this entry. */
  grant(turn: Turn<T> | undefined): void;
}

/** A first-come, first-served queue. @template T what a request that may be batched is to whoever serves it */
export class RequestQueue<T = never> {
  readonly concurrency: number;
  readonly maxQueue: number;
  readonly #batching: Batching | undefined;
  readonly #waiting: Entry<T>[] = [];
  #active = 0;
  #reserved = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor({ concurrency = 1, maxQueue = Infinity, batching }: QueueOptions = {}) {
    this.concurrency = concurrency;
    this.maxQueue = maxQueue;
    this.#batching = batching;
  }

  /** Number of turns that are taken. */
  get active(): number {
    return this.#active;
  }

  /** Number of requests that wait. */
  get waiting(): number {
    return this.#waiting.length;
  }

  /**
   * Waits for a turn of one's own. An aborted request leaves the queue at once.
   * @returns releases the turn; calling it again does nothing
   * @throws ERR_JITFLUX_QUEUE_FULL, ERR_JITFLUX_ABORTED
   */
  async acquire(signal?: AbortSignal): Promise<() => void> {
    throwIfAborted(signal);
    this.#admit();
    return this.#acquire(signal);
  }

  /**
   * Room for a request that will wait for its turn later; nobody else gets it until then.
   * @throws ERR_JITFLUX_QUEUE_FULL
   */
  reserve(): Reservation {
    this.#admit();
    let isKept = true;
    this.#reserved++;
    const cancel = () => {
      if (isKept) this.#reserved--;
      isKept = false;
    };
    return {
      cancel,
      acquire: (signal) => {
        cancel();
        return this.#acquire(signal);
      },
    };
  }

  async #acquire(signal: AbortSignal | undefined): Promise<() => void> {
    const turn = await this.#enter({ payload: undefined, key: undefined, images: 1 }, signal);
    return () => turn?.release();
  }

  /**
   * Waits for a turn that may be shared with requests of the same key.
   * @returns the turn, whose every member the caller serves; undefined if another caller serves this one
   * @throws ERR_JITFLUX_QUEUE_FULL, ERR_JITFLUX_ABORTED
   */
  async join(
    payload: T,
    { key, images, signal }: { key: string; images: number; signal?: AbortSignal },
  ): Promise<Turn<T> | undefined> {
    throwIfAborted(signal);
    this.#admit();
    return this.#enter({ payload, key, images }, signal);
  }

  /** Refuses a request that finds no room. */
  #admit(): void {
    const taken = this.#active + this.#reserved;
    const waiting = this.#waiting.length + Math.max(0, taken - this.concurrency);
    if (taken < this.concurrency || waiting < this.maxQueue) return;
    throw new JitFluxError(
      ERROR_CODES.QUEUE_FULL,
      `${waiting} requests are waiting already, the limit is ${this.maxQueue}`,
      { waiting, running: this.#active, maxQueue: this.maxQueue },
    );
  }

  async #enter(
    request: Pick<Entry<T>, 'payload' | 'key' | 'images'>,
    signal: AbortSignal | undefined,
  ): Promise<Turn<T> | undefined> {
    throwIfAborted(signal);
    return new Promise((resolve, reject) => {
      const leave = () => {
        this.#waiting.splice(this.#waiting.indexOf(entry), 1);
        reject(abortedError(signal));
        this.#dispatch();
      };
      const entry: Entry<T> = {
        ...request,
        since: performance.now(),
        grant: (turn) => {
          end();
          resolve(turn);
        },
      };
      this.#waiting.push(entry);
      const end = onAbort(signal, leave);
      this.#dispatch();
    });
  }

  /** Grants every turn that can be. A turn is handed over at once, so that nobody can overtake. */
  #dispatch(): void {
    clearTimeout(this.#timer);
    while (this.#active < this.concurrency) {
      const [head] = this.#waiting;
      if (head === undefined) return;
      const group = this.#groupOf(head);
      const patience = this.#patience(head, group);
      if (patience > 0) {
        this.#timer = setTimeout(() => this.#dispatch(), Math.ceil(patience));
        return;
      }
      for (const entry of group) this.#waiting.splice(this.#waiting.indexOf(entry), 1);
      this.#active++;
      const turn = this.#turn(group);
      for (const entry of group) entry.grant(entry === head ? turn : undefined);
    }
  }

  /** The entry and those behind it that can be served with it. */
  #groupOf(head: Entry<T>): Entry<T>[] {
    if (head.key === undefined || this.#batching === undefined) return [head];
    let room = this.#batching.maxImages - head.images;
    const others = this.#waiting.filter((entry) => {
      const fits = entry !== head && entry.key === head.key && entry.images <= room;
      if (fits) room -= entry.images;
      return fits;
    });
    return [head, ...others];
  }

  /** Milliseconds for which the entry still waits for others. */
  #patience(head: Entry<T>, group: readonly Entry<T>[]): number {
    if (head.key === undefined || this.#batching === undefined) return 0;
    const images = group.reduce((sum, entry) => sum + entry.images, 0);
    if (images >= this.#batching.maxImages) return 0;
    return head.since + this.#batching.maxWaitMilliseconds - performance.now();
  }

  #turn(group: readonly Entry<T>[]): Turn<T> {
    let released = false;
    return {
      members: group.map(({ payload }) => payload as T),
      release: () => {
        if (released) return;
        released = true;
        this.#active--;
        this.#dispatch();
      },
    };
  }
}
