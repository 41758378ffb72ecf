/** Measured errors against golden data: asserted by the tests, and printed as one table per file. */
import { afterAll, expect } from 'vitest';

interface Row {
  what: string;
  measure: string;
  error: number;
  bound: number;
}

const rows: Row[] = [];

/** Largest absolute difference. Infinity for different lengths or a NaN on either side. */
export function maxAbs(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return Infinity;
  let worst = 0;
  for (let i = 0; i < actual.length; i++) {
    const difference = Math.abs(actual[i]! - expected[i]!);
    if (!(difference <= worst)) worst = Number.isNaN(difference) ? Infinity : difference;
  }
  return worst;
}

/** rms(actual - expected) / rms(expected). */
export function relativeRms(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return Infinity;
  let difference = 0;
  let reference = 0;
  for (let i = 0; i < actual.length; i++) {
    difference += (actual[i]! - expected[i]!) ** 2;
    reference += expected[i]! ** 2;
  }
  return Math.sqrt(difference / reference);
}

/** Records and asserts one error. */
export function expectWithin(what: string, measure: string, error: number, bound: number): void {
  rows.push({ what, measure, error, bound });
  expect(error, `${what}: ${measure}`).toBeLessThanOrEqual(bound);
}

/** Prints this file's table after its tests. */
export function printParityTable(title: string): void {
  afterAll(() => {
    const width = Math.max(...rows.map((row) => row.what.length), 10);
    const line = (a: string, b: string, c: string, d: string): string =>
      `${a.padEnd(width)}  ${b.padEnd(14)}  ${c.padStart(10)}  ${d.padStart(8)}`;
    const text = rows.map((row) =>
      line(row.what, row.measure, row.error.toExponential(2), row.bound.toExponential(0)),
    );
    console.log([`\nParity: ${title}`, line('case', 'measure', 'error', 'bound'), ...text].join('\n'));
  });
}
