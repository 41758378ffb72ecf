// FLUX.1's other parts, both text encoders and the autoencoder at their real widths (toy ones in a smoke run),
// against the same in eager ATen (bench/native/eager_parts.h): same weights, inputs, type and threads, in turn. T5 in int8
// stands against eager ATen's bfloat16. And how long the PNG of a picture takes, which is a library's.
import { Autoencoder, ClipTextEncoder, encodePng, T5Encoder, Tensor } from 'jit-flux';
import { interleave, timed } from '../lib/interleave.mjs';
import { closePeers, startPeers } from '../lib/peer.mjs';
import { hasFailed, part } from '../lib/part.mjs';
import { ratio, relativeDifference, spread } from '../lib/statistics.mjs';
import { duration, number, ratioText, table } from '../lib/table.mjs';
import { autoencoderFile, CLIP, clipFile, T5, t5File } from '../lib/weights.mjs';

/** @typedef {import('../lib/section-process.mjs').Context} Context */

/**
 * @typedef {object} Case
 * @property {'t5' | 'clip' | 'decoder' | 'encoder'} part
 * @property {'float32' | 'bfloat16' | 'int8'} type
 * @property {number} size tokens of the prompt, or pixels of a side
 * @property {number} rounds
 */

/** @type {Readonly<Record<import('../lib/models.mjs').Mode, { widths: 'flux' | 'tiny', png: number, cases: readonly Case[] }>>} */
const CASES = {
  full: {
    widths: 'flux',
    png: 1024,
    cases: [
      { part: 't5', type: 'int8', size: 512, rounds: 12 },
      { part: 't5', type: 'bfloat16', size: 512, rounds: 12 },
      { part: 't5', type: 'float32', size: 512, rounds: 4 },
      { part: 'clip', type: 'bfloat16', size: 77, rounds: 20 },
      { part: 'clip', type: 'float32', size: 77, rounds: 20 },
      { part: 'decoder', type: 'bfloat16', size: 512, rounds: 4 },
      { part: 'decoder', type: 'float32', size: 512, rounds: 2 },
      { part: 'decoder', type: 'bfloat16', size: 1024, rounds: 2 },
      { part: 'decoder', type: 'float32', size: 1024, rounds: 1 },
      { part: 'encoder', type: 'bfloat16', size: 1024, rounds: 1 },
      { part: 'encoder', type: 'float32', size: 512, rounds: 2 },
    ],
  },
  quick: {
    widths: 'flux',
    png: 1024,
    cases: [
      { part: 't5', type: 'int8', size: 512, rounds: 6 },
      { part: 't5', type: 'bfloat16', size: 512, rounds: 6 },
      { part: 'clip', type: 'bfloat16', size: 77, rounds: 10 },
      { part: 'decoder', type: 'bfloat16', size: 512, rounds: 2 },
      { part: 'decoder', type: 'float32', size: 512, rounds: 1 },
    ],
  },
  smoke: {
    widths: 'tiny',
    png: 64,
    cases: [
      { part: 't5', type: 'int8', size: 16, rounds: 2 },
      { part: 't5', type: 'bfloat16', size: 16, rounds: 2 },
      { part: 'clip', type: 'float32', size: 16, rounds: 2 },
      { part: 't5', type: 'float32', size: 16, rounds: 2 },
      { part: 'decoder', type: 'bfloat16', size: 64, rounds: 2 },
      { part: 'decoder', type: 'float32', size: 64, rounds: 2 },
      { part: 'encoder', type: 'float32', size: 64, rounds: 2 },
    ],
  },
};
/** Relative L2 difference of the results in float32 above which one of the two computes something else. */
const TOLERANCE = 1e-4;
const SEED = 21;
const SPATIAL_FACTOR = 8;
const LATENT_CHANNELS = 16;
const LEVELS = 4;

/** @param {Context} context */
export default async function parts(context) {
  const { widths, png, cases: wanted } = CASES[context.mode];
  const peers = await startPeers(context);
  try {
    const cases = [];
    for (const measured of wanted) {
      const { part: name, type, size } = measured;
      const found = await part(`${name} ${type} ${size}`, context, () => {
        const peer = peers.running.get('aten');
        if (!peer) throw new Error('there is no eager ATen');
        return measure(measured, widths, peer, context);
      });
      cases.push({ part: name, type, size, ...found });
    }
    return { widths, peers: peers.info, cases, png: await measurePng(png) };
  } finally {
    closePeers(peers);
  }
}

/**
 * @param {Case} measured
 * @param {'flux' | 'tiny'} widths
 * @param {import('../lib/peer.mjs').Peer} peer
 * @param {Context} context
 */
async function measure({ part: name, type, size, rounds }, widths, peer, context) {
  const ours = await OPEN[name](type, size, widths, context);
  const model = `${name} ${type}`;
  try {
    await peer.ask({ op: 'load_part', model, kind: name, dtype: computeType(type), ...ours.load });
    const request = { op: 'run_part', model, ...ours.input };
    const mine = await ours.run();
    const difference = relativeDifference(await mine.toFloat32Array(), await peer.result(request));
    mine.dispose();
    context.log(`${model} ${size}: results differ by ${number(difference)} (relative L2)`);
    if (type === 'float32' && !(difference < TOLERANCE)) {
      throw new Error(`the results differ by ${number(difference)} (relative L2), more than ${TOLERANCE}`);
    }
    const samples = await interleave(
      {
        ours: () => timed(async () => (await ours.run()).dispose()),
        theirs: async () => (await peer.ask(request)).seconds,
      },
      { rounds, atLeast: 1, warmups: 0 },
    );
    return {
      ours: spread(samples.ours),
      reference: spread(samples.theirs),
      ratio: ratio(samples.theirs, samples.ours),
      difference,
    };
  } finally {
    ours.dispose();
    await peer.ask({ op: 'unload', model });
  }
}

/**
 * One side of a comparison, and what the other is asked for.
 * @typedef {object} Ours
 * @property {Record<string, string | number>} load
 * @property {Record<string, number | number[]>} input
 * @property {() => Promise<Tensor>} run
 * @property {() => void} dispose
 */

/** @type {(type: Case['type'], size: number, widths: 'flux' | 'tiny', context: Context) => Promise<Ours>} */
async function openT5(type, tokens, widths, { work, threads }) {
  const { layers, heads, vocab } = T5[widths];
  const path = await t5File(widths, work);
  const encoder = await T5Encoder.load(path, {
    dtype: computeType(type),
    threads,
    ...(type === 'int8' && { quantize: type }),
  });
  const { ids, input } = prompt(tokens, vocab);
  return {
    load: { path, layers, heads },
    input: { ids },
    run: () => encoder.encode(input),
    dispose: disposal(input, encoder),
  };
}

/** @type {(type: Case['type'], size: number, widths: 'flux' | 'tiny', context: Context) => Promise<Ours>} */
async function openClip(type, tokens, widths, { work, threads }) {
  const { layers, heads, vocab } = CLIP[widths];
  const path = await clipFile(widths, work);
  const encoder = await ClipTextEncoder.load(path, { dtype: computeType(type), threads });
  const { ids, input } = prompt(tokens, vocab);
  return {
    load: { path, layers, heads },
    input: { ids },
    run: async () => {
      const { pooled, hidden } = await encoder.encode(input);
      pooled.dispose();
      return hidden;
    },
    dispose: disposal(input, encoder),
  };
}

/** @type {(type: Case['type'], size: number, widths: 'flux' | 'tiny', context: Context) => Promise<Ours>} */
async function openDecoder(type, pixels, widths, { work, threads }) {
  const path = await autoencoderFile(widths, work);
  const autoencoder = await Autoencoder.load(path, { dtype: computeType(type), threads });
  const side = pixels / SPATIAL_FACTOR;
  const input = Tensor.randn([1, LATENT_CHANNELS, side, side], { seed: SEED });
  return {
    load: { path, levels: LEVELS },
    input: { seed: SEED, channels: LATENT_CHANNELS, side },
    run: () => autoencoder.decode(input, { tiling: false }),
    dispose: disposal(input, autoencoder),
  };
}

/** @type {(type: Case['type'], size: number, widths: 'flux' | 'tiny', context: Context) => Promise<Ours>} */
async function openEncoder(type, pixels, widths, { work, threads }) {
  const path = await autoencoderFile(widths, work);
  const autoencoder = await Autoencoder.load(path, { dtype: computeType(type), threads });
  const input = Tensor.randn([1, 3, pixels, pixels], { seed: SEED });
  return {
    load: { path, levels: LEVELS },
    input: { seed: SEED, channels: 3, side: pixels },
    run: async () => {
      const { mean, logvar } = await autoencoder.encode(input);
      logvar.dispose();
      return mean;
    },
    dispose: disposal(input, autoencoder),
  };
}

const OPEN = { t5: openT5, clip: openClip, decoder: openDecoder, encoder: openEncoder };

/** @param {{ dispose(): void }[]} parts */
function disposal(...parts) {
  return () => parts.forEach((each) => each.dispose());
}

/** What is not quantised computes in bfloat16. @param {Case['type']} type */
function computeType(type) {
  return type === 'int8' ? 'bfloat16' : type;
}

/**
 * Token ids without a meaning.
 * @param {number} tokens
 * @param {number} vocab
 */
function prompt(tokens, vocab) {
  const ids = Array.from({ length: tokens }, (_, i) => (i * 7919 + 13) % vocab);
  return { ids, input: Tensor.from(BigInt64Array.from(ids, BigInt), [1, tokens]) };
}

/**
 * Seconds of encoding a picture that is smooth with a little noise, as photographs are.
 * @param {number} pixels of a side
 */
async function measurePng(pixels) {
  const data = new Uint8Array(3 * pixels * pixels);
  for (let i = 0; i < data.length; i++) {
    const [x, y] = [Math.floor(i / 3) % pixels, Math.floor(i / (3 * pixels))];
    data[i] = 128 + 90 * Math.sin(x / 40 + (i % 3)) * Math.cos(y / 60) + ((i * 2654435761) % 7);
  }
  const picture = { width: pixels, height: pixels, data };
  const { png } = await interleave(
    { png: () => timed(async () => void encodePng(picture)) },
    { rounds: 3, atLeast: 1, warmups: 1 },
  );
  return { pixels, seconds: spread(png) };
}

/** @param {Awaited<ReturnType<typeof parts>>} result */
export function print({ cases, png }) {
  const rows = table(
    ['part', 'type', 'size', 'ours', 'eager ATen', 'ratio', 'relative L2'],
    cases.map((found) => {
      const place = [
        found.part,
        found.type,
        found.part.endsWith('coder') ? `${found.size}x${found.size}` : `${found.size} tokens`,
      ];
      if (hasFailed(found)) return [...place, `failed: ${found.error}`];
      if (!('ours' in found)) return place;
      return [
        ...place,
        duration(found.ours.median),
        duration(found.reference.median),
        ratioText(found.ratio),
        number(found.difference),
      ];
    }),
  );
  return `${rows}\n\nPNG of ${png.pixels}x${png.pixels}: ${duration(png.seconds.median)}`;
}
