/** Which process on which machine: process ids alone are reused, and every container counts its own. */
import { readFileSync, readlinkSync } from 'node:fs';
import { hostname } from 'node:os';

/** What tells one process from every other, as far as this system says it. */
export interface ProcessIdentity {
  pid: number;
  /** Name of the machine or container, for people. */
  host: string;
  /** Kernel and boot, `/proc/sys/kernel/random/boot_id`: containers of one machine share it. */
  boot?: string;
  /** PID namespace in which `pid` counts, such as `pid:[4026531836]`. */
  namespace?: string;
  /** Start in clock ticks after the boot: ids are reused. */
  started?: string;
}

/** Of this process. */
export function ownIdentity(): ProcessIdentity {
  const boot = quietly(() => readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim());
  const namespace = quietly(() => readlinkSync('/proc/self/ns/pid'));
  const started = statusOf(process.pid)?.started;
  return {
    pid: process.pid,
    host: hostname(),
    ...(boot && { boot }),
    ...(namespace && { namespace }),
    ...(started && { started }),
  };
}

/** `'unknown'`: it runs, or ran, where this process cannot ask for it. */
export type Liveness = 'alive' | 'dead' | 'unknown';

/** Whether a process of this machine and PID namespace still runs; any other is `'unknown'`. */
export function livenessOf(other: ProcessIdentity, own = ownIdentity()): Liveness {
  const isHere =
    other.boot === undefined
      ? other.host === own.host // a record that knows no more
      : other.boot === own.boot && other.namespace !== undefined && other.namespace === own.namespace;
  if (!isHere || !Number.isInteger(other.pid) || other.pid <= 0) return 'unknown';
  try {
    process.kill(other.pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return 'dead';
  }
  const status = statusOf(other.pid);
  if (status === undefined) return 'unknown'; // hidden: /proc is mounted with hidepid
  // A container without an init process keeps the dead of killed parents for ever.
  if (status.state === 'Z' || status.state === 'X') return 'dead';
  if (other.started === undefined) return 'unknown';
  return status.started === other.started ? 'alive' : 'dead';
}

/** Fields 3 and 22 of /proc/<pid>/stat; the command name before them may hold spaces and parentheses. */
function statusOf(pid: number): { state?: string; started?: string } | undefined {
  const text = quietly(() => readFileSync(`/proc/${pid}/stat`, 'utf8'));
  if (text === undefined) return undefined;
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return { ...(fields[0] && { state: fields[0] }), ...(fields[19] && { started: fields[19] }) };
}

function quietly(read: () => string): string | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}
