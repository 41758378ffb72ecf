// What sampling costs the main thread: time in which JavaScript runs, and how late timers fire.
import { readFileSync } from 'node:fs';
import { monitorEventLoopDelay, performance } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { BUNDLED_MODEL, FluxTransformer, jit, JitSampler, resolveModel, Tensor } from 'jit-flux';
import { createPlan } from 'jit-flux/sampler';
import { SEEDS } from '../lib/models.mjs';
import { spread } from '../lib/statistics.mjs';
import { number, table } from '../lib/table.mjs';

/** @typedef {'active' | 'cpu' | 'wall'} Clock */
/** @typedef {Record<`${Clock}Ms`, number>} Times per step */

/** @type {import('../lib/models.mjs').Grid} */
const GRID = [32, 32];
const PRESET = 'jit-4x';
/** Measured runs of each subject. */
const RUNS = { full: 20, quick: 4, smoke: 1 };
/** Resolution of the lag's histogram in ms: an idle loop shows about this much. */
const RESOLUTION_MS = 1;
const IDLE_MS = { full: 1500, quick: 1500, smoke: 100 };
/** Runs before the measured ones: V8 compiles what is hot. */
const WARMUPS = 2;

/** @param {import('../lib/section-process.mjs').Context} context */
export default async function javascript({ mode, threads }) {
  const { model, textTokens } = await bundledTransformer(threads);
  const { textDim, pooledDim, inChannels } = model.config;
  const prompt = Tensor.randn([1, textTokens, textDim], { seed: SEEDS.prompt });
  const pooled = Tensor.randn([1, pooledDim], { seed: SEEDS.pooled });
  const latents = Tensor.randn([1, GRID[0] * GRID[1], inChannels], { seed: SEEDS.tokens });
  const plan = createPlan({ preset: PRESET, grid: GRID });
  const conditioning = await model.condition({ prompt, pooled, sigmas: plan.sigmas });

  const sampled = async () => {
    const sampler = new JitSampler(model.bind(conditioning), { preset: PRESET, grid: GRID, latents });
    let steps = 0;
    for await (const event of sampler) steps = event.step + 1;
    sampler.dispose();
    return steps;
  };
  // The same native work without the sampler: what remains is the price of the calls themselves.
  const bare = async () => {
    const state = latents.clone();
    for (let step = 0; step < plan.steps; step++) {
      const velocity = await model.forward({ tokens: state, grid: GRID, conditioning, step });
      const full = await jit.step(state, velocity, { grid: GRID, dSigma: -1e-6 });
      for (const tensor of new Set([velocity, full])) tensor.dispose();
    }
    state.dispose();
    return plan.steps;
  };

  const runs = RUNS[mode];
  /** @type {Record<'sampler' | 'bare', Times[]>} */
  const taken = { sampler: [], bare: [] };
  for (let i = -WARMUPS; i < runs; i++) {
    const times = { sampler: await mainThread(sampled), bare: await mainThread(bare) };
    if (i < 0) continue;
    taken.sampler.push(times.sampler);
    taken.bare.push(times.bare);
  }
  const idle = await lagDuring(() => sleep(IDLE_MS[mode]));
  const running = await lagDuring(async () => {
    for (let i = 0; i < runs; i++) await sampled();
  });
  for (const part of [latents, prompt, pooled, conditioning, model]) part.dispose();
  return {
    grid: GRID,
    preset: PRESET,
    sampler: summary(taken.sampler),
    bare: summary(taken.bare),
    lag: {
      resolutionMs: RESOLUTION_MS,
      idle,
      running,
      added: { p50: running.p50 - idle.p50, p99: running.p99 - idle.p99 },
    },
  };
}

/**
 * The bundled model's transformer. What it is, and where, says its description: this file knows nothing of it.
 * @param {number} threads
 */
async function bundledTransformer(threads) {
  const { transformer, info } = await resolveModel(BUNDLED_MODEL);
  const { weights, ropeAxes } = transformer;
  if (!weights) throw new Error(`${BUNDLED_MODEL} has no transformer`);
  const model = await FluxTransformer.load(weights.path, { threads, ...(ropeAxes && { ropeAxes }) });
  return { model, textTokens: info.text.length };
}

/** @param {readonly Times[]} taken */
const summary = (taken) => ({
  activeMsPerStep: spread(taken.map((t) => t.activeMs)),
  cpuMsPerStep: spread(taken.map((t) => t.cpuMs)),
  wallMsPerStep: spread(taken.map((t) => t.wallMs)),
});

/**
 * Per step: milliseconds in which the event loop was not waiting for events; those in which the main thread was on a
 * core, which leaves out when it had to wait for one; and all.
 * @param {() => Promise<number>} work returns its steps
 * @returns {Promise<Times>}
 */
async function mainThread(work) {
  const before = performance.eventLoopUtilization();
  const cpu = mainThreadCpuMs();
  const started = performance.now();
  const steps = await work();
  const wallMs = (performance.now() - started) / steps;
  const cpuMs = (mainThreadCpuMs() - cpu) / steps;
  return { activeMs: performance.eventLoopUtilization(before).active / steps, cpuMs, wallMs };
}

/** Time on a core so far, of this thread alone, from Linux' scheduler. */
function mainThreadCpuMs() {
  const [nanoseconds] = readFileSync(`/proc/self/task/${process.pid}/schedstat`, 'utf8').split(' ');
  return Number(nanoseconds) / 1e6;
}

/**
 * Times between the ticks of a timer that should fire every millisecond.
 * @param {() => Promise<unknown>} work
 */
async function lagDuring(work) {
  const histogram = monitorEventLoopDelay({ resolution: RESOLUTION_MS });
  histogram.enable();
  // The first tick contains the start of the histogram itself.
  await sleep(20);
  histogram.reset();
  await work();
  histogram.disable();
  /** @type {(nanoseconds: number) => number} */
  const ms = (nanoseconds) => nanoseconds / 1e6;
  return {
    p50: ms(histogram.percentile(50)),
    p99: ms(histogram.percentile(99)),
    max: ms(histogram.max),
    ticks: histogram.count,
  };
}

/** @param {Awaited<ReturnType<typeof javascript>>} result */
export function print({ sampler, bare, lag, grid, preset }) {
  /** @type {(value: number) => string} */
  const ms = (value) => `${number(value)} ms`;
  /** @type {(name: string, measured: ReturnType<typeof summary>) => string[]} */
  const row = (name, { activeMsPerStep: a, cpuMsPerStep: c, wallMsPerStep: w }) => [
    name,
    ms(a.median),
    `${number(a.low)}..${number(a.high)}`,
    ms(c.median),
    ms(w.median),
  ];
  return [
    table(
      [
        `main thread per step (flux-tiny, ${grid.join('x')}, ${preset})`,
        'active',
        '10th..90th',
        'on a core',
        'wall',
      ],
      [row('sampler', sampler), row('bare calls, all tokens', bare)],
    ),
    '',
    table(
      [`event loop, timer of ${lag.resolutionMs} ms`, 'p50', 'p99', 'largest'],
      [
        ['idle', ms(lag.idle.p50), ms(lag.idle.p99), ms(lag.idle.max)],
        ['sampling', ms(lag.running.p50), ms(lag.running.p99), ms(lag.running.max)],
        ['added', ms(lag.added.p50), ms(lag.added.p99)],
      ],
    ),
  ].join('\n');
}
