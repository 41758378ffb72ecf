import { afterEach, describe, expect, it, vi } from 'vitest';

import { Activity } from '../../../src/pipeline/activity.js';
import { queueOptions } from '../../../src/pipeline/queue-options.js';
import { RequestQueue, type Turn } from '../../../src/pipeline/request-queue.js';

const tick = () => new Promise((resolve) => setImmediate(resolve));

describe('RequestQueue', () => {
  it('grants one turn at a time, in the order of asking', async () => {
    const queue = new RequestQueue();
    const order: number[] = [];
    let inside = 0;
    await Promise.all(
      Array.from({ length: 5 }, async (_, i) => {
        const release = await queue.acquire();
        expect(++inside).toBe(1);
        order.push(i);
        await tick();
        inside--;
        release();
        release();
      }),
    );
    expect(order).toEqual([0, 1, 2, 3, 4]);
    (await queue.acquire())();
    expect(queue.active).toBe(0);
  });

  it('grants as many turns as its concurrency', async () => {
    const queue = new RequestQueue({ concurrency: 3 });
    let [inside, most] = [0, 0];
    await Promise.all(
      Array.from({ length: 10 }, async () => {
        const release = await queue.acquire();
        most = Math.max(most, ++inside);
        expect(queue.active).toBeLessThanOrEqual(3);
        await tick();
        inside--;
        release();
      }),
    );
    expect(most).toBe(3);
  });

  it('refuses what does not fit any more', async () => {
    const queue = new RequestQueue({ maxQueue: 1 });
    const first = await queue.acquire();
    const second = queue.acquire();
    await expect(queue.acquire()).rejects.toMatchObject({
      code: 'ERR_JITFLUX_QUEUE_FULL',
      details: { waiting: 1, running: 1, maxQueue: 1 },
    });
    first();
    const third = queue.acquire();
    (await second)();
    (await third)();

    const none = new RequestQueue({ maxQueue: 0 });
    const release = await none.acquire();
    await expect(none.acquire()).rejects.toMatchObject({ code: 'ERR_JITFLUX_QUEUE_FULL' });
    release();
    (await none.acquire())();
  });

  it('keeps room for those who will ask later', async () => {
    const queue = new RequestQueue({ maxQueue: 1 });
    const first = queue.reserve();
    const second = queue.reserve();
    expect(() => queue.reserve()).toThrow(/limit is 1/);
    await expect(queue.acquire()).rejects.toMatchObject({
      code: 'ERR_JITFLUX_QUEUE_FULL',
      details: { waiting: 1, running: 0, maxQueue: 1 },
    });
    // Whoever asks first is served first; both have room.
    const release = await second.acquire();
    const other = first.acquire();
    await expect(queue.acquire()).rejects.toMatchObject({ code: 'ERR_JITFLUX_QUEUE_FULL' });
    release();
    (await other)();

    const given = queue.reserve();
    const kept = queue.reserve();
    given.cancel();
    given.cancel();
    const third = queue.reserve();
    expect(() => queue.reserve()).toThrow(/limit is 1/);
    for (const room of [kept, third]) room.cancel();
    (await queue.acquire())();
  });

  it('lets an aborted caller leave', async () => {
    const queue = new RequestQueue();
    const first = await queue.acquire();
    const controller = new AbortController();
    const second = queue.acquire(controller.signal);
    const third = queue.acquire();
    await tick();
    expect(queue.waiting).toBe(2);
    controller.abort('enough');
    await expect(second).rejects.toMatchObject({ code: 'ERR_JITFLUX_ABORTED', cause: 'enough' });
    expect(queue.waiting).toBe(1);
    first();
    (await third)();
    await expect(queue.acquire(AbortSignal.abort())).rejects.toMatchObject({ code: 'ERR_JITFLUX_ABORTED' });
  });

  it('cannot be overtaken while a turn is handed over', async () => {
    const queue = new RequestQueue();
    const order: string[] = [];
    const first = await queue.acquire();
    const waiting = queue.acquire().then((release) => (order.push('waiting'), release));
    await tick();
    first();
    const late = queue.acquire().then((release) => (order.push('late'), release));
    (await waiting)();
    (await late)();
    expect(order).toEqual(['waiting', 'late']);
  });
});

describe('RequestQueue with batching', () => {
  afterEach(() => vi.useRealTimers());

  const create = (maxWaitMilliseconds = 0) =>
    new RequestQueue<string>({ batching: { maxImages: 4, maxWaitMilliseconds } });
  const join = (queue: RequestQueue<string>, name: string, o: { key?: string; images?: number } = {}) =>
    queue.join(name, { key: 'k', images: 1, ...o });

  it('serves what waits with the same key together, as far as there is room', async () => {
    const queue = create();
    const first = await join(queue, 'a');
    expect(first?.members).toEqual(['a']);
    const b = join(queue, 'b', { images: 2 });
    const other = join(queue, 'x', { key: 'other' });
    const c = join(queue, 'c', { images: 3 });
    const d = join(queue, 'd', { images: 2 });
    const alone = queue.acquire();
    first?.release();
    // c does not fit beside b; d does.
    const second = (await b) as Turn<string>;
    expect(second.members).toEqual(['b', 'd']);
    expect(await d).toBeUndefined();
    expect(queue.waiting).toBe(3);
    second.release();
    const third = await other;
    expect(third?.members).toEqual(['x']);
    third?.release();
    const fourth = await c;
    expect(fourth?.members).toEqual(['c']);
    fourth?.release();
    (await alone)();
    expect([queue.active, queue.waiting]).toEqual([0, 0]);
  });

  it('waits for others no longer than it is told to', async () => {
    vi.useFakeTimers();
    const queue = create(50);
    const seen: string[][] = [];
    const enter = async (name: string, images = 1) => {
      const turn = await join(queue, name, { images });
      if (turn) seen.push([...turn.members]);
      turn?.release();
    };
    const all = [enter('a')];
    await vi.advanceTimersByTimeAsync(30);
    all.push(enter('b'));
    await vi.advanceTimersByTimeAsync(19);
    expect(seen).toEqual([]);
    await vi.advanceTimersByTimeAsync(2);
    expect(seen).toEqual([['a', 'b']]);
    // A full batch waits for nobody.
    all.push(enter('c', 2), enter('d', 2));
    await vi.advanceTimersByTimeAsync(0);
    expect(seen).toEqual([
      ['a', 'b'],
      ['c', 'd'],
    ]);
    await Promise.all(all);
    expect(vi.getTimerCount()).toBe(0);
  });

  it('forgets an aborted member', async () => {
    vi.useFakeTimers();
    const queue = create(50);
    const controller = new AbortController();
    const a = queue.join('a', { key: 'k', images: 1, signal: controller.signal });
    const b = join(queue, 'b');
    controller.abort();
    await expect(a).rejects.toMatchObject({ code: 'ERR_JITFLUX_ABORTED' });
    await vi.advanceTimersByTimeAsync(51);
    expect((await b)?.members).toEqual(['b']);
  });
});

describe('queueOptions', () => {
  it('fills in defaults and refuses what makes no sense', () => {
    expect(queueOptions({})).toEqual({ concurrency: 1, maxQueue: 100, batching: undefined });
    expect(queueOptions({ maxQueue: Infinity, concurrency: 2, dynamicBatching: { maxImages: 8 } })).toEqual({
      concurrency: 2,
      maxQueue: Infinity,
      batching: { maxImages: 8, maxWaitMilliseconds: 0 },
    });
    for (const bad of [
      { concurrency: 0 },
      { concurrency: 1.5 },
      { maxQueue: -1 },
      { maxQueue: '5' as never },
      { dynamicBatching: true as never },
      { dynamicBatching: { maxImages: 1 } },
      { dynamicBatching: { maxImages: 65 } },
      { dynamicBatching: { maxImages: 4, maxWaitMilliseconds: -1 } },
    ]) {
      expect(() => queueOptions(bad)).toThrow(
        expect.objectContaining({ code: 'ERR_JITFLUX_INVALID_ARGUMENT' }),
      );
    }
  });
});

describe('Activity', () => {
  it('forwards the outer signal and lets go of it', () => {
    const controller = new AbortController();
    const activity = new Activity(controller.signal);
    const ended = new Activity(controller.signal);
    ended.end();
    controller.abort('why');
    expect(activity.signal).toMatchObject({ aborted: true, reason: 'why' });
    expect(ended.signal.aborted).toBe(false);
    expect(new Activity(controller.signal).signal.aborted).toBe(true);
  });

  it('is idle while paused', async () => {
    const activity = new Activity(undefined);
    let idle = false;
    const waiting = activity.idle().then(() => (idle = true));
    await tick();
    expect(idle).toBe(false);
    activity.pause();
    await waiting;
    activity.resume();
    activity.abort('gone');
    activity.end();
    await activity.idle();
    expect(() => activity.resume()).toThrow(expect.objectContaining({ code: 'ERR_JITFLUX_ABORTED' }));
  });
});
