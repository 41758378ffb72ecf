// What a process holds: for the programs of this folder, which print a list of samples as JSON.
import { readdirSync, readFileSync } from 'node:fs';

/** Anonymous memory in MiB; handles of the event loop, file descriptors and threads as counts. */
export function sample() {
  globalThis.gc();
  const status = readFileSync('/proc/self/status', 'utf8');
  const field = (name) => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)[1]);
  return {
    anonymousMiB: field('RssAnon') / 1024,
    heapMiB: process.memoryUsage().heapUsed / 2 ** 20,
    handles: process.getActiveResourcesInfo().length,
    descriptors: readdirSync('/proc/self/fd').length,
    threads: field('Threads'),
  };
}
