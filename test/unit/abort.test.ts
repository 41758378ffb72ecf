import { getEventListeners } from 'node:events';

import { describe, expect, it } from 'vitest';

import { onAbort } from '../../src/abort.js';

describe('onAbort', () => {
  it('calls every callback once, in the order of asking', () => {
    const controller = new AbortController();
    const calls: string[] = [];
    const again = () => calls.push('again');
    onAbort(controller.signal, () => calls.push('first'));
    onAbort(controller.signal, again);
    onAbort(controller.signal, again);
    controller.abort();
    controller.signal.dispatchEvent(new Event('abort'));
    expect(calls).toEqual(['first', 'again', 'again']);
  });

  it('calls none that has ended, not even one that another ends', () => {
    const controller = new AbortController();
    const calls: string[] = [];
    const end = onAbort(controller.signal, () => calls.push('ended'));
    end();
    end();
    onAbort(controller.signal, () => last());
    const last = onAbort(controller.signal, () => calls.push('ended by the one before'));
    controller.abort();
    expect(calls).toEqual([]);
  });

  it('never calls where the signal has fired, or where there is none', () => {
    const calls: string[] = [];
    onAbort(AbortSignal.abort(), () => calls.push('late'))();
    onAbort(undefined, () => calls.push('none'))();
    expect(calls).toEqual([]);
  });

  it('leaves one listener on a signal however many wait, and none after them', async () => {
    const { signal } = new AbortController();
    const warnings: Error[] = [];
    const hear = (warning: Error) => warnings.push(warning);
    process.on('warning', hear);
    const ends = Array.from({ length: 100 }, () => onAbort(signal, () => undefined));
    await new Promise((resolve) => setImmediate(resolve));
    process.off('warning', hear);
    expect(warnings).toEqual([]);
    expect(getEventListeners(signal, 'abort')).toHaveLength(1);
    for (const end of ends) end();
    expect(getEventListeners(signal, 'abort')).toHaveLength(0);
    onAbort(signal, () => undefined);
    expect(getEventListeners(signal, 'abort')).toHaveLength(1);
  });

  it('is not deceived by a subclass or an object of its own', () => {
    const controller = new AbortController();
    const { signal } = controller;
    Object.assign(signal, {
      addEventListener() {
        throw new Error('not this one');
      },
    });
    let called = false;
    onAbort(signal, () => (called = true));
    controller.abort();
    expect(called).toBe(true);
  });
});
