import { afterEach, describe, expect, it, vi } from 'vitest';

import { connectNativeLog, log, type LogEntry, setLogger } from '../../src/logging.js';

afterEach(() => {
  vi.unstubAllEnvs();
  vi.restoreAllMocks();
  setLogger();
});

describe('log', () => {
  it('passes on what the level allows', () => {
    const entries: LogEntry[] = [];
    setLogger({ level: 'info', log: (entry) => entries.push(entry) });
    log('debug', 'a');
    log('info', 'b', { count: 2 });
    log('error', 'c');
    setLogger({ level: 'silent', log: (entry) => entries.push(entry) });
    log('error', 'd');
    expect(entries).toEqual([
      { level: 'info', message: 'b', source: 'jit-flux', details: { count: 2 } },
      { level: 'error', message: 'c', source: 'jit-flux' },
    ]);
  });

  it('goes to standard error by default, from the level of JIT_FLUX_LOG_LEVEL', () => {
    const write = vi.spyOn(process.stderr, 'write').mockReturnValue(true);
    log('info', 'not by default');
    log('warn', 'by default');
    vi.stubEnv('JIT_FLUX_LOG_LEVEL', 'info');
    log('info', 'now');
    expect(write.mock.calls).toEqual([['[jit-flux] warn: by default\n'], ['[jit-flux] info: now\n']]);
    vi.stubEnv('JIT_FLUX_LOG_LEVEL', 'loud');
    expect(() => setLogger()).toThrow(/"JIT_FLUX_LOG_LEVEL"/);
    vi.unstubAllEnvs();
  });

  it('survives a logger that throws, and refuses one that is none', () => {
    setLogger({
      log: () => {
        throw new Error('full');
      },
    });
    expect(() => log('error', 'x')).not.toThrow();
    expect(() => setLogger({ log: 'x' as never })).toThrow(/"log"/);
    expect(() => setLogger({ level: 'loud' as never })).toThrow(/"level"/);
  });

  it('brings the messages of the engine', () => {
    const entries: LogEntry[] = [];
    const calls: [boolean, string][] = [];
    let speak: ((level: 'warn', message: string) => void) | undefined;
    connectNativeLog((handler, level) => {
      speak = handler;
      calls.push([handler !== undefined, level]);
    });
    setLogger({ level: 'debug', log: (entry) => entries.push(entry) });
    speak?.('warn', 'from C++');
    setLogger({ level: 'silent' });
    expect(calls).toEqual([
      [true, 'warn'],
      [true, 'debug'],
      [false, 'error'],
    ]);
    expect(entries).toEqual([{ level: 'warn', message: 'from C++', source: 'native' }]);
    connectNativeLog(() => undefined);
  });
});
