// What Linux says about the memory of this process.
import { readFileSync } from 'node:fs';

/**
 * A field of /proc/self/status, in bytes: `VmRSS` resident, `VmHWM` its peak, `RssAnon` own, `RssFile` mapped.
 * @param {'VmRSS' | 'VmHWM' | 'RssAnon' | 'RssFile'} field
 */
export function processMemory(field) {
  const found = new RegExp(`${field}:\\s+(\\d+) kB`).exec(readFileSync('/proc/self/status', 'utf8'));
  if (!found) throw new Error(`/proc/self/status has no ${field}`);
  return Number(found[1]) * 1024;
}
