// What the project asks of itself on an H200, and figures that belong to several parts. Pure.
import { outcome } from '../targets.mjs';
import { GPU_MODELS, SHARES } from './models.mjs';

/** @typedef {import('./record.mjs').Row} Row */
/** @typedef {import('./record.mjs').Results} Results */

/** Why a figure is missing. */
class Missing extends Error {}

/** Looks figures up by part and name; throws why one is not there. @param {Results} results */
function figuresOf({ parts }) {
  return (/** @type {string} */ part, /** @type {string} */ name) => {
    const found = parts[part];
    const row = found?.rows.find((candidate) => candidate.name === name);
    if (row?.value !== undefined) return row.value;
    const why =
      found === undefined
        ? 'did not run'
        : found.status === 'ok'
          ? `has no "${name}"`
          : `${found.status}: ${found.reason}`;
    throw new Missing(`${part} ${row?.note ?? why}`);
  };
}

/** @typedef {ReturnType<typeof figuresOf>} Figure */

/**
 * Our own kernels in a dense step of FLUX.1-dev: calls, and the shape under which the kernels' benchmark measures them.
 * Image and text together count as one call, whether a block handles them as one or as two.
 * @param {number} geluCalls of a dense step; cuBLASLt does the double blocks' within the product where it can
 * @returns {[kernel: string, calls: number][]}
 */
function denseKernels(geluCalls) {
  const { config, textTokens, grid } = GPU_MODELS.flux;
  const { hiddenSize: width, mlpRatio, doubleBlocks: doubles, singleBlocks: singles, inChannels } = config;
  const [image, hidden] = [grid[0] * grid[1], mlpRatio * width];
  const tokens = image + textTokens;
  const type = 'bfloat16';
  return [
    [`gather_embed ${type} ${image}x${inChannels}x${width}`, 1],
    [`layer_norm_modulate ${type} ${tokens}x${width}`, 1],
    // After attention and after the MLP, of a single block once; the last one's norm is the output's.
    [`gated_residual ${type} ${tokens}x${width} + norm`, 2 * doubles + singles],
    [`qk_norm_rope ${type} ${tokens}x${3 * width} in place`, doubles],
    [`qk_norm_rope ${type} ${tokens}x${3 * width + hidden} in place`, singles],
    ...(geluCalls > singles
      ? [/** @type {[string, number]} */ ([`gelu_tanh ${type} ${tokens}x${hidden}`, doubles])]
      : []),
    // The attention's result is moved beside the hidden layer.
    [`gelu_tanh ${type} ${tokens}x${hidden} + prefix`, singles],
  ];
}

/** @param {Figure} figure */
const kernelSeconds = (figure) =>
  denseKernels(figure('resident', 'calls in a dense step: gelu')).reduce(
    (sum, [kernel, calls]) => sum + calls * figure('kernels', kernel),
    0,
  );

/** @param {Figure} figure @param {number} share */
const againstPyTorch = (figure, share) => {
  const pass = `pass ${Math.round(100 * share)} %`;
  return figure('peer', pass) / figure('resident', pass);
};

/** @param {Figure} figure */
const denseStep = (figure) => figure('resident', 'step 100 %');

/** @type {readonly { name: string, target: number, unit: string, direction: '>=' | '<=', value: (figure: Figure) => number }[]} */
export const GOALS = [
  { name: 'dense step, 1024x1024', target: 0.12, unit: 's', direction: '<=', value: denseStep },
  {
    name: 'jit-4x, transformer loop',
    target: 1.45,
    unit: 's',
    direction: '<=',
    value: (figure) => figure('resident', 'jit-4x loop'),
  },
  {
    name: 'jit-7x, transformer loop',
    target: 0.88,
    unit: 's',
    direction: '<=',
    value: (figure) => figure('resident', 'jit-7x loop'),
  },
  {
    name: 'text encoders and decode, 1024x1024',
    target: 0.06,
    unit: 's',
    direction: '<=',
    value: (figure) =>
      figure('clip', 'encode 77 tokens, 12 layers') +
      figure('t5', 'encode 512 tokens, 24 layers') +
      figure('decode', 'decode to 1024x1024'),
  },
  {
    name: 'dense pass against eager PyTorch',
    target: 1.25,
    unit: 'x',
    direction: '>=',
    value: (figure) => againstPyTorch(figure, 1),
  },
  ...Object.entries({ 'jit-4x': 4.1, 'jit-7x': 6.9 }).map(([preset, target]) => ({
    name: `${preset} against own dense-50, transformer loop`,
    target,
    unit: 'x',
    direction: /** @type {const} */ ('>='),
    value: (/** @type {Figure} */ figure) => figure('resident', `${preset} loop against dense-50`),
  })),
  {
    name: 'kernels besides products and attention, share of a dense step',
    target: 0.06,
    unit: 'share',
    direction: '<=',
    value: (figure) => kernelSeconds(figure) / denseStep(figure),
  },
  {
    name: 'JiT operators, share of a run',
    target: 0.01,
    unit: 'share',
    direction: '<=',
    value: (figure) =>
      Math.max(
        ...['jit-4x', 'jit-7x'].map((preset) =>
          figure('resident', `${preset}: JiT operators, share of a run`),
        ),
      ),
  },
  {
    name: 'peak memory, modulation dropped',
    target: 19e9,
    unit: 'B',
    direction: '<=',
    value: (figure) => figure('resident', 'peak memory'),
  },
];

/**
 * One entry per goal, in order. A figure that is missing is a goal missed, with the reason; a toy model meets none.
 * @param {Results} results
 */
export function evaluateGoals(results) {
  const figure = figuresOf(results);
  const isSmoke = results.calls.some(({ smoke }) => smoke);
  return GOALS.map(({ value, ...goal }) => {
    const found = outcome(
      goal,
      attempt(() => value(figure)),
    );
    return isSmoke ? { ...found, met: false } : found;
  });
}

/**
 * Figures of more than one part.
 * @param {Results} results
 * @returns {Row[]}
 */
export function comparisons(results) {
  const figure = figuresOf(results);
  /** @type {(name: string, unit: string, value: () => number, note?: string) => Row} */
  const row = (name, unit, value, note) => {
    const { found, reason } = attempt(value);
    return { name, unit, ...(found && { value: found.value }), note: reason ?? note ?? '' };
  };
  const products = () => figure('peer', 'products of a dense step');
  const attention = () => figure('peer', 'attentions of a dense step');
  const rest = () => denseStep(figure) - products() - attention() - kernelSeconds(figure);
  return [
    ...SHARES.map((share) =>
      row(`pass ${Math.round(100 * share)} %, against eager PyTorch`, 'x', () =>
        againstPyTorch(figure, share),
      ),
    ),
    row('dense step: products', 's', products, 'by PyTorch alone, at our shapes'),
    row('dense step: attention', 's', attention, 'likewise'),
    row(
      'dense step: other kernels',
      's',
      () => kernelSeconds(figure),
      'each alone with a cold cache, times its calls',
    ),
    row('dense step: the rest', 's', rest, 'launches, waiting, and what alone is faster or slower'),
    row('dense step', 's', () => denseStep(figure)),
  ];
}

/** @param {() => number} value @returns {{ found?: { value: number }, reason?: string }} */
function attempt(value) {
  try {
    const number = value();
    return Number.isFinite(number) ? { found: { value: number } } : { reason: 'the figure is no number' };
  } catch (error) {
    if (error instanceof Missing) return { reason: error.message };
    throw error;
  }
}
