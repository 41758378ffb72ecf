import { describe, expect, it } from 'vitest';

import { Activity } from '../../../src/pipeline/activity.js';
import { FairLock } from '../../../src/pipeline/fair-lock.js';

const tick = () => new Promise((resolve) => setImmediate(resolve));

describe('FairLock', () => {
  it('is granted one at a time, in the order of asking', async () => {
    const lock = new FairLock();
    const order: number[] = [];
    let inside = 0;
    await Promise.all(
      Array.from({ length: 5 }, async (_, i) => {
        const release = await lock.acquire();
        expect(++inside).toBe(1);
        order.push(i);
        await tick();
        inside--;
        release();
        release();
      }),
    );
    expect(order).toEqual([0, 1, 2, 3, 4]);
    (await lock.acquire())();
  });

  it('lets an aborted caller leave the queue', async () => {
    const lock = new FairLock();
    const first = await lock.acquire();
    const controller = new AbortController();
    const second = lock.acquire(controller.signal);
    const third = lock.acquire();
    await tick();
    expect(lock.waiting).toBe(2);
    controller.abort('enough');
    await expect(second).rejects.toMatchObject({ code: 'ERR_JITFLUX_ABORTED', cause: 'enough' });
    expect(lock.waiting).toBe(1);
    first();
    (await third)();
    await expect(lock.acquire(AbortSignal.abort())).rejects.toMatchObject({ code: 'ERR_JITFLUX_ABORTED' });
  });

  it('cannot be overtaken while it is handed over', async () => {
    const lock = new FairLock();
    const order: string[] = [];
    const first = await lock.acquire();
    const waiting = lock.acquire().then((release) => (order.push('waiting'), release));
    await tick();
    first();
    const late = lock.acquire().then((release) => (order.push('late'), release));
    (await waiting)();
    (await late)();
    expect(order).toEqual(['waiting', 'late']);
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
