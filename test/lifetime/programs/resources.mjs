// What a process holds: for the programs of this folder, which print a list of samples as JSON.
import { readdirSync, readFileSync } from 'node:fs';

/** Anonymous memory in MiB; handles of the event loop, file descriptors and threads as counts. */
export function sample() {
  if (!globalThis.gc) throw new Error('Run it with --expose-gc');
  globalThis.gc();
  const status = readFileSync('/proc/self/status', 'utf8');
  const field = (/** @type {string} */ name) =>
    Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)?.[1]);
  return {
    anonymousMiB: field('RssAnon') / 1024,
    heapMiB: process.memoryUsage().heapUsed / 2 ** 20,
    handles: process.getActiveResourcesInfo().length,
    descriptors: readdirSync('/proc/self/fd').length,
    threads: field('Threads'),
  };
}
