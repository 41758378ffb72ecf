#!/usr/bin/env node
// All benchmarks: npm run bench -- [--quick] [--json FILE] [--only native,forward,...] [--threads 2] [--python PATH]
//                                  [--diffusers CHECKOUT] [--jit CHECKOUT] [--work DIR]
// bench/README.md says what is measured and how to read it.
import { mkdirSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { describeMachine } from './lib/machine.mjs';
import { RESULTS } from './lib/paths.mjs';
import { runSection } from './lib/section-process.mjs';
import { number, table } from './lib/table.mjs';
import { evaluateTargets } from './targets.mjs';

// In the order in which they run; later ones may use what earlier ones found.
const SECTIONS = ['native', 'forward', 'peer', 'sampler', 'load', 'javascript'];

// Taken before the engine is loaded into this process, which sets variables of its own.
const environment = { ...process.env };

const { values } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    json: { type: 'string' },
    only: { type: 'string' },
    threads: { type: 'string', default: '2' },
    python: { type: 'string', default: process.env.JIT_FLUX_PYTHON || 'python3' },
    diffusers: { type: 'string' },
    jit: { type: 'string' },
    work: { type: 'string', default: defaultWorkDirectory() },
  },
});

const threads = Number(values.threads);
if (!Number.isInteger(threads) || threads < 1) {
  fail(`Expected a positive integer for --threads but received ${values.threads}`);
}
const only = values.only?.split(',') ?? SECTIONS;
for (const name of only) {
  if (!SECTIONS.includes(name)) fail(`Unknown section ${name}; there are ${SECTIONS.join(', ')}`);
}

const work = resolve(values.work);
mkdirSync(work, { recursive: true });
const machine = await describeMachine({ threads, quick: values.quick });
console.log(
  table(
    ['machine', ''],
    Object.entries(machine).map(([name, value]) => [name, Array.isArray(value) ? value.join(' ') : value]),
  ),
);

const started = performance.now();
const sections = {};
for (const name of SECTIONS.filter((section) => only.includes(section))) {
  console.log(`\n== ${name}`);
  const begun = performance.now();
  const context = {
    quick: values.quick,
    threads,
    python: values.python,
    diffusers: values.diffusers && resolve(values.diffusers),
    jit: values.jit && resolve(values.jit),
    work,
    sections,
  };
  try {
    sections[name] = await runSection(name, context, environment);
    const { print } = await import(`./sections/${name}.mjs`);
    console.log(print(sections[name]));
  } catch (error) {
    sections[name] = { error: error.message };
    console.log(`error: ${error.message}`);
  }
  sections[name].seconds = (performance.now() - begun) / 1000;
}

const targets = evaluateTargets(sections);
console.log(
  `\n${table(
    ['target', 'value', 'wanted', 'unit', 'met', ''],
    targets.map((t) => [
      t.name,
      number(t.value),
      `${t.direction} ${t.target}`,
      t.unit,
      t.met ? 'yes' : 'NO',
      t.reason ?? t.detail,
    ]),
  )}`,
);

const document = { machine, targets, seconds: (performance.now() - started) / 1000, sections };
const stamp = `${machine.date.slice(0, 10)}-${machine.commit}`;
for (const path of [join(RESULTS, `${stamp}.json`), ...(values.json ? [resolve(values.json)] : [])]) {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, `${JSON.stringify(document, null, 2)}\n`);
  console.log(`written: ${path}`);
}
console.log(`${number(document.seconds)} seconds`);
if (Object.values(sections).some(({ error }) => error !== undefined)) process.exitCode = 1;

/** Where weights are kept between runs: 3.3 GB. */
function defaultWorkDirectory() {
  const cache =
    process.env.JIT_FLUX_CACHE ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'jit-flux');
  return join(cache, 'bench');
}

function fail(message) {
  console.error(`error: ${message}`);
  process.exit(2);
}
