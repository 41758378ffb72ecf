#!/usr/bin/env node
// All benchmarks: npm run bench -- [--quick | --smoke] [--only native,forward,...]; --help lists the options.
// bench/README.md says what is measured and how to read it.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { describeMachine } from './lib/machine.mjs';
import { RESULTS } from './lib/paths.mjs';
import { findFailures } from './lib/part.mjs';
import { runSection } from './lib/section-process.mjs';
import { number, table } from './lib/table.mjs';
import { OPTIONAL_SECTIONS, SECTIONS, problemsOf } from './schema.mjs';
import { evaluateTargets } from './targets.mjs';

const HELP = `npm run bench -- [options]

  --quick           fewer sizes and repetitions; still one figure per target
  --smoke           tiny shapes, for which no figure means anything: it shows that every section runs
  --only a,b        some sections: ${SECTIONS.join(', ')}
  --threads 2       of the engine and of everything it is compared with
  --python PATH     Python with torch and safetensors as a second peer; default JIT_FLUX_PYTHON, or python3 if it has them
  --diffusers DIR   checkout of huggingface/diffusers: its own FluxTransformer2DModel joins (needs Python)
  --jit DIR         checkout of Wenhao-Sun77/Just-in-Time: the released pipeline joins (needs --diffusers as well)
  --sdcpp PATH      sd-cli of stable-diffusion.cpp: the section sdcpp, which runs only then, compares a step with its
  --model DIR       model for the section snapshot instead of a synthetic one
  --work DIR        where random weights are kept; default ~/.cache/jit-flux/bench
  --json FILE       the result once more, besides bench/results/<date>-<commit>[-<mode>].json

The exit code is 1 if anything failed (the rest is measured all the same) and 2 for bad options.`;

const { values } = readOptions();
if (values.help) {
  console.log(HELP);
  process.exit(0);
}
if (values.quick && values.smoke) fail('Expected only one of --quick and --smoke');
/** @type {import('./lib/models.mjs').Mode} */
const mode = values.smoke ? 'smoke' : values.quick ? 'quick' : 'full';
const threads = Number(values.threads);
if (!Number.isInteger(threads) || threads < 1) {
  fail(`Expected a positive integer for --threads but received ${values.threads}`);
}
const known = [...SECTIONS, ...(values.sdcpp === undefined ? [] : OPTIONAL_SECTIONS)];
const only = values.only?.split(',') ?? known;
for (const name of only) {
  if (!known.includes(/** @type {any} */ (name))) {
    fail(`Expected some of ${known.join(', ')} for --only but received ${name}`);
  }
}

const work = resolve(values.work ?? defaultWorkDirectory());
mkdirSync(work, { recursive: true });
const machine = describeMachine({ threads, mode });
console.log(
  table(
    ['machine', ''],
    Object.entries(machine).map(([name, value]) => [
      name,
      Array.isArray(value)
        ? value.join(' ')
        : typeof value === 'object'
          ? Object.values(value).join(', ')
          : value,
    ]),
  ),
);

const started = performance.now();
const python = values.python ?? process.env.JIT_FLUX_PYTHON;
/** @type {Record<string, any>} */
const sections = {};
for (const name of known.filter((section) => only.includes(section))) {
  console.log(`\n== ${name}\n`);
  const begun = performance.now();
  const context = {
    mode,
    threads,
    python: python ?? 'python3',
    pythonIsRequired: python !== undefined,
    diffusers: values.diffusers && resolve(values.diffusers),
    jit: values.jit && resolve(values.jit),
    model: values.model && resolve(values.model),
    sdcpp: values.sdcpp && resolve(values.sdcpp),
    work,
    sections,
  };
  try {
    sections[name] = await runSection(name, context);
    const { print } = await import(`./sections/${name}.mjs`);
    console.log(print(sections[name]));
  } catch (error) {
    const { message } = /** @type {Error} */ (error);
    sections[name] = { error: message };
    console.log(table([name, ''], [['failed', message]]));
  }
  sections[name].seconds = (performance.now() - begun) / 1000;
}

const targets = evaluateTargets(sections, mode, machine.cpuClass);
const failures = findFailures({ machine, sections });
/** @type {(outcome: import('./targets.mjs').Outcome) => string} */
const verdict = ({ value, met }) =>
  value === null ? 'no figure' : mode === 'smoke' ? 'not judged' : met ? 'yes' : 'NO';
console.log(
  `\n${table(
    ['target', 'value', 'wanted', 'unit', 'met', ''],
    targets.map((t) => [
      t.name,
      number(t.value),
      `${t.direction} ${t.target}`,
      t.unit,
      verdict(t),
      t.reason ?? t.detail,
    ]),
  )}\n`,
);

const document = { machine, targets, failures, seconds: (performance.now() - started) / 1000, sections };
const stamp = [machine.date.slice(0, 10), machine.commit, ...(mode === 'full' ? [] : [mode])].join('-');
const written = join(RESULTS, `${stamp}.json`);
for (const path of [written, ...(values.json ? [resolve(values.json)] : [])]) {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, `${JSON.stringify(document, null, 2)}\n`);
  console.log(`written: ${path}`);
}
console.log(`${number(document.seconds)} seconds`);

// The file itself: what cannot be said in JSON (NaN, undefined) shows only there.
const problems = problemsOf(JSON.parse(readFileSync(written, 'utf8')), { mode, sections: only });
if (failures.length > 0) {
  const rows = failures.map(({ where, reason }) => [where, reason]);
  console.log(`\n${table(['failed', 'reason'], rows)}`);
}
for (const problem of problems) console.log(`the result is not as it should be: ${problem}`);
if (failures.length > 0 || problems.length > 0) process.exitCode = 1;

function readOptions() {
  try {
    return parseArgs({
      options: {
        help: { type: 'boolean', short: 'h', default: false },
        quick: { type: 'boolean', default: false },
        smoke: { type: 'boolean', default: false },
        json: { type: 'string' },
        only: { type: 'string' },
        threads: { type: 'string', default: '2' },
        python: { type: 'string' },
        diffusers: { type: 'string' },
        jit: { type: 'string' },
        model: { type: 'string' },
        sdcpp: { type: 'string' },
        work: { type: 'string' },
      },
    });
  } catch (error) {
    return fail(/** @type {Error} */ (error).message);
  }
}

/** Where weights are kept between runs. */
function defaultWorkDirectory() {
  const cache =
    process.env.JIT_FLUX_CACHE ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'jit-flux');
  return join(cache, 'bench');
}

/**
 * @param {string} message
 * @returns {never}
 */
function fail(message) {
  console.error(`error: ${message}`);
  process.exit(2);
}
