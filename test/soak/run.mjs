#!/usr/bin/env node
// The soak: random work of every kind for a long time, and whether anything grows meanwhile. Exit code 1 if something
// grew, failed in an unexpected way, or stopped; docs/testing.md says what the figures mean.
//   npm run soak -- [--minutes 1] [--seed 1] [--clients 2] [--out FILE.json] [--plot FILE.svg]
//                   [--commit HASH, where this is no git checkout]
import { execFileSync } from 'node:child_process';
import { cpSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { getHeapStatistics } from 'node:v8';
import { Worker } from 'node:worker_threads';
import { memoryReport } from '../../dist/index.js';
import { ORIGINALS, randomNumbers, Soak } from './actions.mjs';
import { plot } from './plot.mjs';
import { judge, LEAST_QUIET_SAMPLES } from './verdict.mjs';

/** @typedef {import('./verdict.mjs').Sample} Sample */
/** @typedef {Awaited<ReturnType<Soak['act']>>} Ended */

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
if (globalThis.gc === undefined) throw new Error('Run it with --expose-gc, as `npm run soak` does');
const gc = globalThis.gc;
const { values: options } = parseArgs({
  options: {
    minutes: { type: 'string', default: '1' },
    seed: { type: 'string', default: '1' },
    clients: { type: 'string', default: '2' },
    out: { type: 'string' },
    plot: { type: 'string' },
    commit: { type: 'string' },
  },
});
const [minutes, seed, clients] = [options.minutes, options.seed, options.clients].map(Number);
if (!(minutes > 0) || !Number.isInteger(seed) || !(clients >= 1))
  throw new Error('--minutes and --clients take positive numbers, --seed an integer');

const started = performance.now();
const elapsed = () => (performance.now() - started) / 1000;
const scratch = mkdtempSync(join(tmpdir(), 'jit-flux-soak-'));
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }));

const counts = { done: 0, refused: 0, aborted: 0, unexpected: 0, workers: 0, refusals: 0 };
/** @type {import('./actions.mjs').Unexpected[]} */
const unexpected = [];
let paused = false;
let over = false;

/** @param {Ended} ended */
function note({ outcome, refusals, unexpected: error }) {
  counts[outcome]++;
  counts.refusals += refusals;
  if (error) fail(error);
}

/** @param {import('./actions.mjs').Unexpected} error */
function fail(error) {
  counts.unexpected = unexpected.push(error);
  console.error(`second ${elapsed().toFixed(0)}, ${error.action}: ${error.message}`);
  // Enough to see what is wrong.
  if (unexpected.length >= 20) over = true;
}

for (const event of ['uncaughtException', 'unhandledRejection'])
  process.on(event, (error) => fail({ action: event, message: error?.stack ?? String(error) }));
process.on('warning', (warning) => {
  if (/** @type {NodeJS.ErrnoException} */ (warning).code !== 'JITFLUX_UNDISPOSED')
    fail({ action: 'warning', message: warning.stack ?? warning.message });
});
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => (over = true));

const snapshot = join(scratch, 'snapshot');
const tiny = ['--tiny', '--dtype', 'float32', '--variant', 'dev', '--t5-layers', '2', '--clip-layers', '2'];
execFileSync(process.execPath, [join(ROOT, 'tools', 'synthetic-snapshot.mjs'), snapshot, ...tiny]);

// Of their own for the workers, so that whoever opened a file can be told by its name.
const forWorkers = join(scratch, 'for-workers');
const copies = { snapshot, ...ORIGINALS };
for (const [name, folder] of Object.entries(copies))
  cpSync(folder, join(forWorkers, name), { recursive: true });

const random = randomNumbers(seed);
const soak = new Soak({ random, scratch, files: copies, name: 'main' });
await soak.begin(2);

const turn = () => new Promise((resolve) => setImmediate(resolve));
const pause = (/** @type {number} */ milliseconds) =>
  new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Resolves when nobody is at work any more. */
const atWork = new Set();
const idle = async () => {
  while (atWork.size > 0) await Promise.race(atWork);
};

/** @param {() => Promise<void>} work again and again, unless the soak is paused */
async function loop(work) {
  while (!over) {
    if (paused) {
      await pause(20);
      continue;
    }
    const running = work();
    atWork.add(running);
    await running;
    atWork.delete(running);
  }
}

/** A worker thread from its start to its end. */
async function workerLife() {
  const end = /** @type {const} */ (['natural', 'left', 'exit', 'throw', 'terminate'])[
    Math.floor(random() * 5)
  ];
  const milliseconds = 200 + random() * 4000;
  /** @type {import('./thread.mjs').ThreadData} */
  const workerData = {
    seed: Math.floor(random() * 2 ** 32),
    name: `worker-${counts.workers}`,
    scratch: mkdtempSync(join(forWorkers, 'scratch-')),
    files: {
      fixtures: join(forWorkers, 'fixtures'),
      bundled: join(forWorkers, 'bundled'),
      snapshot: join(forWorkers, 'snapshot'),
    },
    reference: soak.reference,
    milliseconds,
    end,
  };
  const worker = new Worker(new URL('thread.mjs', import.meta.url), { workerData });
  /** @type {NodeJS.Timeout | undefined} */
  let timer;
  worker.on('message', (message) => {
    if (message !== 'ready') note(message);
    // Not before: Node would leave the modules open that it is reading.
    else if (end === 'terminate') timer = setTimeout(() => void worker.terminate(), milliseconds);
  });
  /** @type {unknown} */
  let error;
  worker.on('error', (thrown) => (error = thrown));
  const code = await new Promise((resolve) => worker.once('exit', resolve));
  clearTimeout(timer);
  rmSync(workerData.scratch, { recursive: true, force: true });
  counts.workers++;
  const message = error instanceof Error ? error.message : undefined;
  const expected = { natural: 0, left: 0, exit: 3, throw: 1, terminate: 1 }[end];
  if (code !== expected || message !== (end === 'throw' ? 'soak: on purpose' : undefined))
    fail({ action: `worker that ends by ${end}`, message: `exit code ${code}, ${String(error)}` });
}

/**
 * What is open, apart from what Node before version 26 leaves open when a worker ends while one of its
 * `fs.promises` calls opens a file: the files of the workers, of /proc, and modules.
 */
function openFiles() {
  const all = readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`);
    } catch {
      return []; // that of the folder itself
    }
  });
  const left = all.filter((path) => path.startsWith(forWorkers) || /^\/(proc|sys)\/|\.js$/.test(path));
  return { own: all.filter((path) => !left.includes(path)), left };
}

/** @param {boolean} quiet @returns {Promise<Sample>} */
async function sample(quiet) {
  const { engine, process: own } = await memoryReport();
  const { own: descriptors, left } = openFiles();
  const { heapUsed, external } = process.memoryUsage();
  const mib = (/** @type {number} */ bytes) => Math.round((bytes / 2 ** 20) * 1000) / 1000;
  return {
    seconds: Math.round(elapsed() * 10) / 10,
    quiet,
    residentMiB: mib(own.residentBytes),
    anonymousMiB: mib(own.anonymousBytes),
    heapMiB: mib(heapUsed),
    externalMiB: mib(external),
    referencesKiB: getHeapStatistics().used_global_handles_size / 1024,
    tensorMiB: mib(engine.tensorBytes),
    mappedMiB: mib(engine.mappedBytes),
    handles: process.getActiveResourcesInfo().length,
    descriptors: descriptors.length,
    left: left.length,
    threads: readdirSync('/proc/self/task').length,
    mappings: readFileSync('/proc/self/maps', 'utf8').split('\n').length - 1,
    done: counts.done,
    refused: counts.refused,
    aborted: counts.aborted,
    unexpected: counts.unexpected,
    workers: counts.workers,
  };
}

/** When everything at work has ended, what was forgotten is collected: until a few rounds in a row free nothing. */
async function quietSample() {
  paused = true;
  await idle();
  let least = Infinity;
  for (let rounds = 0, last = 0; rounds < 100 && last < 5; rounds++, last++) {
    gc();
    await turn();
    const { engine } = await memoryReport();
    const held = engine.tensorBytes + engine.mappedBytes;
    if (held < least) [least, last] = [held, 0];
  }
  // Threads that have ended may still be listed for a moment.
  await pause(50);
  const result = await sample(true);
  paused = false;
  return result;
}

const end = minutes * 60;
const quietEvery = Math.max(3, Math.min(30, end / 15));
const loops = [
  ...Array.from({ length: clients }, () => loop(async () => note(await soak.act()))),
  loop(workerLife),
];
/** @type {Sample[]} */
const samples = [];
// A slow machine is given more time than it was told, as long as it takes for a verdict.
const quietSamples = () => samples.filter(({ quiet }) => quiet).length;
for (let next = quietEvery; (elapsed() < end || quietSamples() < LEAST_QUIET_SAMPLES) && !over;) {
  await pause(Math.min(quietEvery / 3, 5) * 1000);
  const isQuiet = elapsed() >= next;
  samples.push(isQuiet ? await quietSample() : await sample(false));
  if (!isQuiet) continue;
  next = elapsed() + quietEvery;
  const { seconds, anonymousMiB, tensorMiB, descriptors, left, threads, done, workers } =
    samples[samples.length - 1];
  console.log(
    `${seconds.toFixed(0)} s: ${done} done, ${counts.refusals} refusals, ${counts.aborted} aborted, ` +
      `${workers} workers, ${unexpected.length} unexpected; ${anonymousMiB.toFixed(0)} MiB, ` +
      `tensors ${tensorMiB.toFixed(1)} MiB, ${descriptors} (+ ${left}) descriptors, ${threads} threads`,
  );
}
over = true;
await Promise.all(loops);
if (samples[samples.length - 1]?.quiet !== true) samples.push(await quietSample());
await soak.end();
const verdict = judge(samples);
const git = (/** @type {string[]} */ ...args) => {
  try {
    return execFileSync('git', args, {
      cwd: ROOT,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    }).trim();
  } catch {
    return undefined;
  }
};
const report = {
  command: `npm run soak -- ${process.argv.slice(2).join(' ')}`,
  date: new Date().toISOString(),
  commit: options.commit ?? git('rev-parse', '--short=10', 'HEAD'),
  node: process.versions.node,
  cpu: `${cpus()[0]?.model}, ${cpus().length} cores`,
  seed,
  clients,
  seconds: Math.round(elapsed()),
  counts,
  verdict,
  unexpected,
  descriptors: openFiles(),
  samples,
};
if (options.out) writeFileSync(options.out, `${JSON.stringify(report)}\n`);
if (options.plot) writeFileSync(options.plot, plot(report));
console.table(
  Object.fromEntries(
    verdict.growth.map(({ name, first, last, growth, tolerance }) => [
      name,
      { first, last, growth: Number(growth.toFixed(3)), tolerance: Number(tolerance.toFixed(2)) },
    ]),
  ),
);
console.log(JSON.stringify(counts));
for (const problem of verdict.problems) console.error(problem);
console.log(verdict.ok ? 'soak: flat' : 'soak: NOT flat');
process.exitCode = verdict.ok ? 0 : 1;
