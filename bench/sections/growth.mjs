// How the time of a forward pass grows: with the tokens, with the pictures of a batch, and with the threads; beside what
// the FLOPs say.
import { performance } from 'node:perf_hooks';
import { availableParallelism } from 'node:os';
import { FluxTransformer, Tensor } from 'jit-flux';
import { fluxFlops } from 'jit-flux/sampler';
import { interleave } from '../lib/interleave.mjs';
import { ARITHMETIC, GUIDANCE, MODELS, SEEDS, SIGMA } from '../lib/models.mjs';
import { hasFailed, part } from '../lib/part.mjs';
import { spread } from '../lib/statistics.mjs';
import { duration, number, table } from '../lib/table.mjs';
import { weightsFile } from '../lib/weights.mjs';

/** @typedef {import('../lib/section-process.mjs').Context} Context */
/** @typedef {'tokens' | 'images' | 'threads'} Axis */

/**
 * @typedef {object} Plan
 * @property {import('../lib/models.mjs').ModelName} model
 * @property {readonly number[]} sides of the square grids, at one picture
 * @property {readonly number[]} images of a batch, at `batchSide`
 * @property {number} batchSide
 * @property {number} threadSide
 * @property {number} rounds
 */

/** @type {Readonly<Record<import('../lib/models.mjs').Mode, Plan>>} */
const PLANS = {
  full: {
    ...{ model: 'flux-slice', sides: [16, 32, 64, 96, 128], images: [1, 2, 4, 8], batchSide: 32 },
    ...{ threadSide: 64, rounds: 5 },
  },
  quick: {
    ...{ model: 'flux-slice', sides: [16, 32, 64], images: [1, 4], batchSide: 16 },
    ...{ threadSide: 32, rounds: 2 },
  },
  smoke: {
    ...{ model: 'smoke-small', sides: [8, 16], images: [1, 2], batchSide: 8 },
    ...{ threadSide: 8, rounds: 2 },
  },
};
const TYPE = 'bfloat16';

/** @param {Context} context */
export default async function growth(context) {
  const { model, sides, images, batchSide, threadSide, rounds } = PLANS[context.mode];
  const { threads } = context;
  const axes = /** @type {const} */ ([
    ['tokens', sides.map((side) => ({ value: side * side, side, images: 1, threads }))],
    ['images', images.map((count) => ({ value: count, side: batchSide, images: count, threads }))],
    [
      'threads',
      threadCounts().map((count) => ({ value: count, side: threadSide, images: 1, threads: count })),
    ],
  ]);
  const rows = [];
  for (const [axis, points] of axes) {
    const found = await part(axis, context, () => measure(model, points, rounds, context));
    rows.push({ axis, ...found });
  }
  return { model, type: TYPE, textTokens: MODELS[model].textTokens, axes: rows };
}

/** 1, 2, 4 and so on, and all of them. */
function threadCounts() {
  const all = availableParallelism();
  const counts = [];
  for (let count = 1; count < all; count *= 2) counts.push(count);
  return [...counts, all];
}

/** @typedef {{ value: number, side: number, images: number, threads: number }} Point */

/**
 * @param {import('../lib/models.mjs').ModelName} name
 * @param {readonly Point[]} points
 * @param {number} rounds
 * @param {Context} context
 */
async function measure(name, points, rounds, { work }) {
  const path = await weightsFile(name, work);
  /** @type {Map<number, FluxTransformer>} */
  const models = new Map();
  /** @type {(() => void)[]} */
  const disposals = [];
  try {
    /** @type {Record<string, import('../lib/interleave.mjs').Subject>} */
    const subjects = {};
    for (const { value, side, images, threads } of points) {
      const known = models.get(threads);
      const model = known ?? (await FluxTransformer.load(path, { ...ARITHMETIC[TYPE], threads }));
      models.set(threads, model);
      const { textDim, pooledDim, inChannels } = model.config;
      const { textTokens } = MODELS[name];
      const prompt = Tensor.randn([images, textTokens, textDim], { seed: SEEDS.prompt });
      const pooled = Tensor.randn([images, pooledDim], { seed: SEEDS.pooled });
      const conditioning = await model.condition({ prompt, pooled, guidance: GUIDANCE, sigmas: [SIGMA] });
      const tokens = Tensor.randn([images, side * side, inChannels], { seed: SEEDS.tokens });
      for (const one of [prompt, pooled]) one.dispose();
      disposals.push(
        () => conditioning.dispose(),
        () => tokens.dispose(),
      );
      subjects[String(value)] = async () => {
        const started = performance.now();
        const velocity = await model.forward({ tokens, grid: [side, side], conditioning, step: 0 });
        const seconds = (performance.now() - started) / 1000;
        velocity.dispose();
        return seconds;
      };
    }
    const samples = await interleave(subjects, { rounds });
    return {
      points: points.map(({ value, side, images, threads }) => {
        const seconds = spread(samples[String(value)] ?? []);
        const { config } = /** @type {FluxTransformer} */ (models.get(threads));
        const { linear, attention, embedding } = fluxFlops(config, side * side, MODELS[name].textTokens);
        const flops = images * (linear + attention + embedding);
        return { value, seconds, flops, gflops: flops / seconds.median / 1e9 };
      }),
    };
  } finally {
    for (const dispose of disposals) dispose();
    for (const model of models.values()) model.dispose();
  }
}

/** @param {Awaited<ReturnType<typeof growth>>} result */
export function print({ model, type, textTokens, axes }) {
  /** @type {Record<Axis, string>} */
  const titles = { tokens: 'image tokens', images: 'pictures of a batch', threads: 'threads' };
  return [
    `${model}, ${type}, ${textTokens} text tokens`,
    ...axes.flatMap((found) => {
      if (hasFailed(found)) return ['', `${titles[found.axis]}: failed: ${found.error}`];
      if (!('points' in found)) return [];
      const first = found.points[0];
      return [
        '',
        table(
          [titles[found.axis], 'time', 'against the first', 'FLOPs against the first', 'GFLOP/s'],
          found.points.map((p) => [
            p.value,
            duration(p.seconds.median),
            first ? number(p.seconds.median / first.seconds.median) : '',
            first ? number(p.flops / first.flops) : '',
            number(p.gflops),
          ]),
        ),
      ];
    }),
  ].join('\n');
}
