// A soak as a picture: one panel per series, quiet samples as dots, those in the middle of the work as a line.

/** @typedef {import('./verdict.mjs').Sample} Sample */

/** @type {{ title: string, keys: (keyof Sample)[], labels?: string[] }[]} */
const PANELS = [
  { title: 'memory, MiB', keys: ['residentMiB', 'anonymousMiB'], labels: ['resident', 'anonymous'] },
  { title: 'native memory, MiB', keys: ['tensorMiB', 'mappedMiB'], labels: ['tensors', 'weight files'] },
  { title: 'V8, MiB', keys: ['heapMiB', 'externalMiB'], labels: ['heap', 'external'] },
  { title: 'mappings of the address space', keys: ['mappings'] },
  { title: 'threads, descriptors', keys: ['threads', 'descriptors'], labels: ['threads', 'descriptors'] },
  { title: 'active handles of the event loop', keys: ['handles'] },
  { title: 'actions', keys: ['done', 'refused', 'aborted'], labels: ['done', 'refused', 'aborted'] },
  {
    title: 'workers ended; unexpected errors',
    keys: ['workers', 'unexpected'],
    labels: ['workers', 'errors'],
  },
];
const COLOURS = ['#1f6fb4', '#d1601f', '#3a8f3a'];
const [COLUMNS, WIDTH, HEIGHT] = [2, 470, 190];
const [LEFT, RIGHT, TOP, BOTTOM] = [52, 92, 28, 26];

/**
 * An SVG file.
 * @param {{ samples: readonly Sample[], date: string, commit: string | undefined }} report
 * @returns {string}
 */
export function plot({ samples, date, commit }) {
  const rows = Math.ceil(PANELS.length / COLUMNS);
  const [width, height] = [WIDTH * COLUMNS, HEIGHT * rows + 24];
  const body = PANELS.map((panel, i) => {
    const [x, y] = [(i % COLUMNS) * WIDTH, 24 + Math.floor(i / COLUMNS) * HEIGHT];
    return `<g transform="translate(${x} ${y})">\n${drawPanel(panel, samples)}\n</g>`;
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" font-family="sans-serif" font-size="11">`,
    '<rect width="100%" height="100%" fill="white"/>',
    text(
      LEFT,
      18,
      `soak of ${date.slice(0, 10)}, commit ${commit ?? 'unknown'}; dots: quiet, lines: at work; x: minutes`,
    ),
    ...body,
    '</svg>\n',
  ].join('\n');
}

/** @param {typeof PANELS[number]} panel @param {readonly Sample[]} samples */
function drawPanel({ title, keys, labels = [] }, samples) {
  const values = keys.flatMap((key) => samples.map((sample) => Number(sample[key])));
  const ticks = ticksTo(Math.max(1, ...values));
  const top = ticks[ticks.length - 1];
  const last = Math.max(...samples.map(({ seconds }) => seconds)) / 60;
  const minutes = ticksTo(last).filter((tick) => tick <= last);
  const x = (/** @type {number} */ minute) => round(LEFT + (minute / last) * (WIDTH - LEFT - RIGHT));
  const y = (/** @type {number} */ value) => round(HEIGHT - BOTTOM - (value / top) * (HEIGHT - TOP - BOTTOM));
  return [
    text(LEFT, TOP - 10, title, 'font-weight="bold"'),
    ...ticks.map(
      (tick) =>
        `<line x1="${LEFT}" x2="${x(last)}" y1="${y(tick)}" y2="${y(tick)}" stroke="#ddd"/>` +
        text(LEFT - 5, y(tick) + 4, String(tick), 'text-anchor="end"'),
    ),
    ...minutes.map((tick) => text(x(tick), HEIGHT - BOTTOM + 14, String(tick), 'text-anchor="middle"')),
    ...keys.flatMap((key, i) => {
      const points = samples.map((sample) => [x(sample.seconds / 60), y(Number(sample[key]))]);
      const colour = COLOURS[i];
      const dots = points.filter((_, k) => samples[k].quiet);
      return [
        `<polyline fill="none" stroke="${colour}" stroke-opacity="0.35" points="${points.map((point) => point.join()).join(' ')}"/>`,
        `<path stroke="${colour}" stroke-width="3.5" stroke-linecap="round" d="${dots.map(([px, py]) => `M${px} ${py}h0`).join('')}"/>`,
        ...(labels[i] === undefined
          ? []
          : [text(WIDTH - RIGHT + 8, TOP + 8 + 16 * i, labels[i], `fill="${colour}"`)]),
      ];
    }),
  ].join('\n');
}

/** Round numbers from 0 to at least `most`. @param {number} most @returns {number[]} */
function ticksTo(most) {
  const rough = most / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = ([1, 2, 2.5, 5].find((factor) => factor * power >= rough) ?? 10) * power;
  return Array.from({ length: Math.ceil(most / step - 1e-9) + 1 }, (_, i) =>
    Number((i * step).toPrecision(6)),
  );
}

/** @param {number} value */
function round(value) {
  return Math.round(value * 10) / 10;
}

/** @param {number} x @param {number} y @param {string} content */
function text(x, y, content, attributes = '') {
  return `<text x="${x}" y="${y}" ${attributes}>${content}</text>`;
}
