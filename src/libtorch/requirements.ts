/** What the prebuilt libraries ask of the system, and what this system has. */
import { readFileSync } from 'node:fs';

/**
 * The newest symbol versions that the prebuilt libraries may refer to; scripts/check-binary.mjs enforces them. They follow
 * from the toolchain of the release (docs/install.md): a build in manylinux_2_28 lowers glibc to 2.28.
 */
export const PREBUILT_REQUIREMENTS = { glibc: '2.34', glibcxx: '3.4.25', cxxabi: '1.3.11' } as const;

/** What LibTorch itself and Node's own builds need, hence the least for libraries that were built here. */
export const LEAST_REQUIREMENTS = { glibc: '2.28', glibcxx: '3.4.25' } as const;

/** Distributions that meet {@link PREBUILT_REQUIREMENTS}. */
export const SUITABLE_SYSTEMS = 'Debian 12, Ubuntu 22.04, RHEL 9 or Amazon Linux 2023';

/** Versions of the C and C++ libraries of this process. */
export interface SystemLibraries {
  /** Undefined with another C library (musl). */
  glibc?: string;
  /** The newest GLIBCXX_ version that libstdc++ has; undefined if Node brings its own. */
  glibcxx?: string;
}

/** @internal the part of Node's diagnostic report that is looked at */
export interface ProcessReport {
  header?: { glibcVersionRuntime?: string };
  sharedObjects?: string[];
}

export function systemLibraries(report: ProcessReport = processReport()): SystemLibraries {
  const glibc = report.header?.glibcVersionRuntime;
  const glibcxx = glibcxxVersion(
    report.sharedObjects?.find((path) => /\/libstdc\+\+\.so\.6[^/]*$/.test(path)),
  );
  return { ...(glibc !== undefined && { glibc }), ...(glibcxx !== undefined && { glibcxx }) };
}

/** Sorts versions of any number of parts. */
export function compareVersions(a: string, b: string): number {
  const left = a.split('.').map(Number);
  const right = b.split('.').map(Number);
  for (let i = 0; i < Math.max(left.length, right.length); i++) {
    const difference = (left[i] ?? 0) - (right[i] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}

/** The library lists the versions of its symbols by name. */
function glibcxxVersion(path: string | undefined): string | undefined {
  if (path === undefined) return undefined;
  try {
    const names = readFileSync(path, 'latin1').matchAll(/\0GLIBCXX_(\d+\.\d+\.\d+)(?=\0)/g);
    return Array.from(names, ([, version = '']) => version)
      .sort(compareVersions)
      .at(-1);
  } catch {
    return undefined;
  }
}

function processReport(): ProcessReport {
  const report = process.report as NodeJS.ProcessReport & { excludeNetwork?: boolean };
  const previous = report.excludeNetwork ?? false;
  report.excludeNetwork = true; // a report resolves the names of all open sockets otherwise
  try {
    return report.getReport();
  } finally {
    report.excludeNetwork = previous;
  }
}
