/** What the engine and the process hold now. */
import { readFile } from 'node:fs/promises';

import type { DeviceInfo, NativeMemoryUse as EngineMemory } from './binding.js';
import { callNative } from './call.js';
import { devices } from './device.js';

export type { NativeMemoryUse as EngineMemory } from './binding.js';

/** Memory in use, in bytes. Engine and process: all pipelines and threads of this process together. */
export interface MemoryReport {
  engine: EngineMemory;
  process: {
    /** In memory, mapped files included. */
    residentBytes: number;
    /** Of that, this process's own, which can only be swapped. */
    anonymousBytes: number;
    /** Of that, pages of files, such as mapped weights: shared between processes, dropped when memory is short. */
    fileBytes: number;
  };
  /** The GPUs of this process. */
  devices: DeviceInfo[];
}

export async function memoryReport(): Promise<MemoryReport> {
  const status = await readFile('/proc/self/status', 'utf8');
  const bytes = (field: string) =>
    Number(new RegExp(`^${field}:\\s+(\\d+) kB$`, 'm').exec(status)?.[1] ?? 0) * 1024;
  return {
    engine: callNative((binding) => binding.memoryUse()),
    process: {
      residentBytes: bytes('VmRSS'),
      anonymousBytes: bytes('RssAnon'),
      fileBytes: bytes('RssFile') + bytes('RssShmem'),
    },
    devices: await devices(),
  };
}
