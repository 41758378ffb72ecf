// The report of a GPU check as Markdown: a figure or a reason in every row. Pure.
import { duration, number, table } from '../lib/table.mjs';
import { comparisons, evaluateGoals } from './goals.mjs';

/** @typedef {import('./record.mjs').Row} Row */
/** @typedef {import('./record.mjs').Results} Results */

/** What the calls say about machine and versions, as rows of the report. */
const MACHINE = {
  device: 'device',
  computeCapability: 'compute capability',
  deviceMemory: 'device memory',
  driver: 'driver',
  cuda: 'nvcc',
  libtorch: 'LibTorch',
  node: 'Node',
  jitFlux: 'jit-flux',
  commit: 'commit',
  cpu: 'CPU',
  cores: 'cores',
  memoryGiB: 'memory, GiB',
  kernel: 'kernel',
};

/**
 * @param {Results} results
 * @returns {string} Markdown
 */
export function renderReport(results) {
  const { calls, parts } = results;
  const { device = 'no device', date = '' } = calls.at(-1) ?? {};
  const isSmoke = calls.some(({ smoke }) => smoke);
  const entries = Object.entries(parts);
  const sections = [
    `# GPU check: ${device}, ${date.slice(0, 10)}`,
    'Made by `npm run gpu-check`; [README.md](README.md) says what is measured and how.',
    ...warnings(calls, isSmoke).map((text) => `**${text}**`),
    table(
      ['machine', ''],
      Object.entries(MACHINE)
        .map(([name, label]) => [label, distinct(calls, name).join('; ')])
        .filter(([, text]) => text !== ''),
    ),
    '## Goals',
    table(
      ['goal', 'figure', 'wanted', 'met', ''],
      evaluateGoals(results).map(({ name, value, target, unit, direction, met, reason }) => [
        name,
        figure(value, unit),
        `${direction} ${figure(target, unit)}`,
        value === null ? 'no figure' : isSmoke ? 'not judged' : met ? 'yes' : '**no**',
        firstLine(reason),
      ]),
    ),
    '## Parts',
    table(
      ['part', '', 'time', 'call', 'reason'],
      entries.map(([name, { group, status, seconds, reason, call }]) => [
        `${group}: ${name}`,
        status === 'failed' ? '**failed**' : status,
        duration(seconds),
        call + 1,
        firstLine(reason),
      ]),
    ),
    '## Comparisons',
    rowTable(comparisons(results)),
    ...entries.flatMap(([name, { group, rows, reason }]) => [
      ...(rows.length > 0
        ? [`## ${group}: ${name}`, rowTable(rows), reason && `Not complete: ${reason}`]
        : []),
    ]),
    '## Calls',
    calls.map(({ command, date: at }, i) => `${i + 1}. \`${command}\` (${at})`).join('\n'),
  ];
  return `${sections.filter(Boolean).join('\n\n')}\n`;
}

/** @param {string} [text] */
const firstLine = (text) => text?.split('\n')[0];

/** @param {readonly Row[]} rows */
function rowTable(rows) {
  return table(
    ['', 'figure', '10..90 %', ''],
    rows.map(({ name, unit, value, low, high, samples, note }) => [
      name,
      figure(value, unit),
      low === undefined ? '' : `${figure(low, unit)} .. ${figure(high, unit)} (${samples})`,
      note,
    ]),
  );
}

/** @param {number | null | undefined} value @param {string} unit */
function figure(value, unit) {
  if (value === undefined || value === null) return '-';
  if (unit === 's') return value > 0 && value < 1e-3 ? `${number(value * 1e6)} us` : duration(value);
  if (unit === 'B' || unit === 'B/s')
    return value < 1e8 ? `${number(value / 1e6)} M${unit}` : `${number(value / 1e9)} G${unit}`;
  if (unit === 'share') return `${number(100 * value)} %`;
  if (unit === 'x') return `${number(value)}x`;
  return unit === '' ? String(value) : `${number(value)} ${unit}`;
}

/** @param {readonly Record<string, any>[]} calls @param {boolean} isSmoke */
function warnings(calls, isSmoke) {
  const mixed = Object.entries({ commit: 'commits', device: 'devices', libtorch: 'LibTorches' })
    .filter(([name]) => distinct(calls, name).length > 1)
    .map(([name, label]) => `The calls had different ${label}: ${distinct(calls, name).join(', ')}.`);
  return [
    ...mixed,
    ...(calls.some(({ modified }) => modified) ? ['The sources had changes that are in no commit.'] : []),
    ...(isSmoke ? ['A smoke test with a toy model: the times mean nothing.'] : []),
  ];
}

/** @param {readonly Record<string, any>[]} calls @param {string} name */
const distinct = (calls, name) =>
  [...new Set(calls.map((call) => call[name]))].filter((value) => value ?? false);
