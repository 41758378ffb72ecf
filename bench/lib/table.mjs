// Markdown tables, aligned so that a terminal shows them as well as a page; and numbers in them.

const NUMERIC = /^([<>]=? )?-?\d|^-?$/;

/**
 * @param {string[]} header
 * @param {readonly (readonly (string | number | boolean | undefined | null)[])[]} rows short ones are filled up
 * @returns {string} numbers to the right, except in the first column, and text to the left; empty without rows
 */
export function table(header, rows) {
  if (rows.length === 0) return '';
  const cells = [header, ...rows].map((row) => header.map((_, i) => cell(row[i])));
  const columns = header.map((_, i) => ({
    width: Math.max(3, ...cells.map((row) => row[i]?.length ?? 0)),
    right: i > 0 && cells.slice(1).every((row) => NUMERIC.test(row[i] ?? '')),
  }));
  /** @type {(row: string[]) => string} */
  const line = (row) => `| ${row.join(' | ')} |`;
  const [head = '', ...body] = cells.map((row) =>
    line(
      columns.map(({ width, right }, i) =>
        right ? (row[i] ?? '').padStart(width) : (row[i] ?? '').padEnd(width),
      ),
    ),
  );
  const rule = columns.map(({ width, right }) => (right ? `${'-'.repeat(width - 1)}:` : '-'.repeat(width)));
  return [head, line(rule), ...body].join('\n');
}

/** @param {string | number | boolean | undefined | null} value */
const cell = (value) =>
  String(value ?? '')
    .replaceAll('|', '\\|')
    .replaceAll('\n', ' ');

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
