/** Text and JSON for people and programs. */
import { jsonValue } from '../json.js';

/** JSON with two spaces. */
export function toJson(document: unknown): string {
  return JSON.stringify(document, (_key, value: unknown) => jsonValue(value), 2);
}

/** How a table fits a terminal. */
export interface TableFit {
  /** Of the terminal; undefined: any width will do. */
  columns?: number | undefined;
  /** Columns of the table to leave out, the first first, until it fits. */
  drop?: readonly number[];
}

const GAP = '  ';
/** Narrower than this a last column is not broken: it would become one word a line. */
const NARROWEST_COLUMN = 16;

/**
 * Columns padded to equal width. Numbers, percentages and the like (columns named in `right`) end flush. What is too long in the
 * last column goes on in the next line.
 */
export function table(
  rows: readonly (readonly string[])[],
  right: readonly number[] = [],
  { columns, drop = [] }: TableFit = {},
): string[] {
  const widths: number[] = [];
  for (const row of rows) row.forEach((cell, i) => (widths[i] = Math.max(widths[i] ?? 0, cell.length)));
  const dropped = new Set<number>();
  const kept = () => widths.map((_, i) => i).filter((i) => !dropped.has(i));
  const width = () => kept().reduce((sum, i) => sum + widths[i]! + GAP.length, -GAP.length);
  for (const i of drop) if (columns !== undefined && width() > columns) dropped.add(i);
  const last = kept().at(-1) ?? 0;
  const indent = width() - (widths[last] ?? 0);
  const isBroken = columns !== undefined && columns - indent >= NARROWEST_COLUMN && !right.includes(last);
  return rows.flatMap((row) => {
    const line = kept()
      .filter((i) => i < row.length)
      .map((i) => (right.includes(i) ? row[i]!.padStart(widths[i]!) : row[i]!.padEnd(widths[i]!)))
      .join(GAP)
      .trimEnd();
    return isBroken ? wrapText(line, columns, indent).split('\n') : [line];
  });
}

/**
 * Breaks lines at spaces. Words that are longer than a line stay whole.
 * @param columns undefined: nothing is broken
 * @param indent of the lines that follow; default: that of the line itself
 */
export function wrapText(text: string, columns: number | undefined, indent?: number): string {
  if (columns === undefined) return text;
  return text
    .split('\n')
    .flatMap((line) => {
      const lines: string[] = [];
      const margin = ' '.repeat(indent ?? /^ */.exec(line)![0].length);
      let rest = line;
      while (rest.length > columns) {
        const before = rest.lastIndexOf(' ', columns);
        const at = before > margin.length ? before : rest.indexOf(' ', Math.max(columns, margin.length));
        if (at < 0) break;
        lines.push(rest.slice(0, at).trimEnd());
        rest = margin + rest.slice(at).trimStart();
      }
      return [...lines, rest];
    })
    .join('\n');
}

/** `1.5 GB`; decimal units. */
export function formatBytes(bytes: number): string {
  const units = ['bytes', 'kB', 'MB', 'GB', 'TB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${unit === 0 ? value : value.toFixed(value < 10 ? 2 : 1)} ${units[unit]}`;
}

/** `850 ms`, `12.3 s`, `2 min 5 s`. */
export function formatDuration(milliseconds: number): string {
  if (milliseconds < 1000) return `${Math.round(milliseconds)} ms`;
  const seconds = milliseconds / 1000;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

/** `11.90 G`: a count with a decimal unit. */
export function formatCount(count: number): string {
  for (const [unit, size] of [
    ['T', 1e12],
    ['G', 1e9],
    ['M', 1e6],
    ['k', 1e3],
  ] as const) {
    if (count >= size) return `${(count / size).toFixed(2)} ${unit}`;
  }
  return String(count);
}
