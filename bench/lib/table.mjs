// Tables for a terminal, and numbers in them.

const NUMERIC = /^([<>]=? )?-?\d|^-?$/;

/**
 * @param {string[]} header
 * @param {(string | number | boolean | undefined | null)[][]} rows
 * @returns {string} columns aligned: numbers to the right, except in the first column, and text to the left
 */
export function table(header, rows) {
  const cells = [header, ...rows].map((row) => header.map((_, i) => String(row[i] ?? '')));
  const columns = header.map((_, i) => ({
    width: Math.max(...cells.map((row) => row[i].length)),
    right: i > 0 && cells.slice(1).every((row) => NUMERIC.test(row[i])),
  }));
  const line = (row) =>
    row
      .map((cell, i) => (columns[i].right ? cell.padStart(columns[i].width) : cell.padEnd(columns[i].width)))
      .join('  ')
      .trimEnd();
  const [head, ...body] = cells.map(line);
  return [
    head,
    columns
      .map(({ width }) => '-'.repeat(width))
      .join('  ')
      .trimEnd(),
    ...body,
  ].join('\n');
}

/**
 * Three significant digits, without an exponent where that is readable.
 * @param {number | null | undefined} value
 */
export function number(value) {
  if (value === undefined || value === null || !Number.isFinite(value)) return '-';
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(1);
  return size >= 100 ? value.toFixed(0) : value.toPrecision(3);
}

/** @param {number | undefined} seconds */
export function duration(seconds) {
  if (seconds === undefined) return '-';
  return seconds >= 1 ? `${number(seconds)} s` : `${number(seconds * 1e3)} ms`;
}

/** @param {import('./statistics.mjs').Spread | undefined} r */
export const ratioText = (r) => (r ? `${number(r.median)}x (${number(r.low)}..${number(r.high)})` : '-');
