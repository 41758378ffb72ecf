// Our dense step against that of stable-diffusion.cpp (--sdcpp), the engine that other Node packages are built on: the
// same weights, picture size, number of text tokens and threads, each in the types that it has, in turn.
import { BenchEngine } from '../lib/engine.mjs';
import { hasFailed, part } from '../lib/part.mjs';
import { sampleSteps } from '../lib/sdcpp.mjs';
import { spread } from '../lib/statistics.mjs';
import { duration, number, table } from '../lib/table.mjs';
import { autoencoderFile, clipFile, originalFile } from '../lib/weights.mjs';

/** @typedef {import('../lib/section-process.mjs').Context} Context */

const MODEL = 'flux-slice';
const PIXELS = 1024;
/** What it pads an absent prompt to. */
const TEXT_TOKENS = 256;
const TYPES = /** @type {const} */ ({
  ours: ['float32', 'bfloat16', 'int8'],
  theirs: ['f16', 'bf16', 'q8_0'],
});
/** The first of its steps plans memory, and does not count. */
const STEPS = { smoke: 2, quick: 2, full: 4 };

/** @param {Context} context */
export default async function sdcpp(context) {
  const { sdcpp: program } = context;
  if (program === undefined) throw new Error('the section sdcpp needs --sdcpp');
  const side = PIXELS / 16;
  const rows = [];
  for (const [i, type] of TYPES.theirs.entries()) {
    const theirs = await part(`stable-diffusion.cpp ${type}`, context, async () => {
      const { work, threads } = context;
      const seconds = await sampleSteps(program, {
        model: await originalFile(MODEL, work),
        autoencoder: await autoencoderFile('flux', work),
        clip: await clipFile('flux', work),
        ...{ type, side: PIXELS, steps: STEPS[context.mode], threads, work },
      });
      return { seconds: spread(seconds.slice(1)) };
    });
    rows.push({ implementation: /** @type {const} */ ('stable-diffusion.cpp'), type, ...theirs });
    const own = /** @type {(typeof TYPES.ours)[number]} */ (TYPES.ours[i]);
    const ours = await part(`jit-flux ${own}`, context, async () => {
      const engine = await BenchEngine.load(MODEL, own, {
        ...context,
        path: await originalFile(MODEL, context.work),
        textTokens: TEXT_TOKENS,
      });
      try {
        /** @type {number[]} */
        const seconds = [];
        while (seconds.length <= STEPS[context.mode]) seconds.push(await engine.seconds([side, side]));
        return { seconds: spread(seconds.slice(1)) };
      } finally {
        engine.dispose();
      }
    });
    rows.push({ implementation: /** @type {const} */ ('jit-flux'), type: own, ...ours });
  }
  return { model: MODEL, pixels: PIXELS, textTokens: TEXT_TOKENS, rows };
}

/** @param {Awaited<ReturnType<typeof sdcpp>>} result */
export function print({ model, pixels, textTokens, rows }) {
  const title = `a dense step of ${model} at ${pixels}x${pixels} with ${textTokens} text tokens`;
  const lines = rows.map((row) => [
    row.implementation,
    row.type,
    ...(hasFailed(row) || !('seconds' in row)
      ? [`failed: ${hasFailed(row) ? row.error : ''}`]
      : [duration(row.seconds.median), number(1 / row.seconds.median)]),
  ]);
  return `${title}\n\n${table(['', 'type', 'a step', 'steps a second'], lines)}`;
}
