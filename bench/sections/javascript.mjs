// What sampling costs the main thread: time in which JavaScript runs, and how late timers fire.
import { readFileSync } from 'node:fs';
import { monitorEventLoopDelay, performance } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { join } from 'node:path';
import { BUNDLED_MODEL, FluxTransformer, jit, JitSampler, Tensor } from 'jit-flux';
import { createPlan } from 'jit-flux/sampler';
import { SEEDS } from '../lib/models.mjs';
import { spread } from '../lib/statistics.mjs';
import { number, table } from '../lib/table.mjs';

const GRID = [32, 32];
const PRESET = 'jit-4x';
const TEXT_TOKENS = 24;
/** Resolution of the lag's histogram in ms: an idle loop shows about this much. */
const RESOLUTION_MS = 1;
const IDLE_MS = 1500;
/** Runs before the measured ones: V8 compiles what is hot. */
const WARMUPS = 2;

/** @param {import('../lib/section-process.mjs').Context} context */
export default async function javascript({ quick, threads }) {
  const model = await FluxTransformer.load(join(BUNDLED_MODEL, 'transformer.pt'), {
    threads,
    ropeAxes: [8, 12, 12],
  });
  const { textDim, pooledDim, inChannels } = model.config;
  const prompt = Tensor.randn([1, TEXT_TOKENS, textDim], { seed: SEEDS.prompt });
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

  const runs = quick ? 4 : 20;
  const subjects = { sampler: sampled, bare };
  const taken = { sampler: [], bare: [] };
  for (let i = -WARMUPS; i < runs; i++) {
    for (const [name, work] of Object.entries(subjects)) {
      const times = await mainThread(work);
      if (i >= 0) taken[name].push(times);
    }
  }
  const idle = await lagDuring(() => sleep(IDLE_MS));
  const running = await lagDuring(async () => {
    for (let i = 0; i < runs; i++) await sampled();
  });
  for (const part of [latents, prompt, pooled, conditioning, model]) part.dispose();
  const summary = (name) =>
    Object.fromEntries(
      Object.keys(taken[name][0]).map((key) => [`${key}PerStep`, spread(taken[name].map((t) => t[key]))]),
    );
  return {
    grid: GRID,
    preset: PRESET,
    sampler: summary('sampler'),
    bare: summary('bare'),
    lag: {
      resolutionMs: RESOLUTION_MS,
      idle,
      running,
      added: { p50: running.p50 - idle.p50, p99: running.p99 - idle.p99 },
    },
  };
}

/**
 * Per step: milliseconds in which the event loop was not waiting for events; those in which the main thread was on a
 * core, which leaves out when it had to wait for one; and all.
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

/** Times between the ticks of a timer that should fire every millisecond. */
async function lagDuring(work) {
  const histogram = monitorEventLoopDelay({ resolution: RESOLUTION_MS });
  histogram.enable();
  // The first tick contains the start of the histogram itself.
  await sleep(20);
  histogram.reset();
  await work();
  histogram.disable();
  const ms = (nanoseconds) => nanoseconds / 1e6;
  return {
    p50: ms(histogram.percentile(50)),
    p99: ms(histogram.percentile(99)),
    max: ms(histogram.max),
    ticks: histogram.count,
  };
}

export function print({ sampler, bare, lag, grid, preset }) {
  const ms = (value) => `${number(value)} ms`;
  return [
    table(
      [
        `main thread per step (flux-tiny, ${grid.join('x')}, ${preset})`,
        'active',
        '10th..90th',
        'on a core',
        'wall',
      ],
      [
        ['sampler', sampler],
        ['bare calls, all tokens', bare],
      ].map(([name, { activeMsPerStep: a, cpuMsPerStep: c, wallMsPerStep: w }]) => [
        name,
        ms(a.median),
        `${number(a.low)}..${number(a.high)}`,
        ms(c.median),
        ms(w.median),
      ]),
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
