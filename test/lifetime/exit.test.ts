/** A process or a worker thread that ends while the engine is at work. */
import { spawnSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { MINI, MINI_AXES } from '../support/mini.js';
import { NODE } from '../support/program.js';
import { SLOWNESS } from '../support/slowness.js';

const RUNTIME = new URL('../../dist/engine/index.js', import.meta.url).href;

/** Loads the model, asks for far more than can be done, and runs `end` in the middle of it. */
const script = (end: string): string => `
  const { FluxTransformer, Tensor } = await import(${JSON.stringify(RUNTIME)});
  const model = await FluxTransformer.load(${JSON.stringify(MINI)}, {
    ropeAxes: ${JSON.stringify(MINI_AXES)},
  });
  const prompt = Tensor.randn([1, 16, 96], { seed: 1 });
  const pooled = Tensor.randn([1, 48], { seed: 1 });
  const tokens = Tensor.randn([1, 4096, 64], { seed: 1 });
  const conditioning = await model.condition({ prompt, pooled, sigmas: [1] });
  const begun = () => { ${end} };
  for (let i = 0; i < 300; i++) {
    const onProgress = i === 0 ? begun : undefined;
    model.forward({ tokens, grid: [64, 64], conditioning, step: 0, onProgress }).catch(() => {});
  }
`;

function run(source: string): { status: number | null; signal: string | null; stderr: string } {
  const args = ['--input-type=module', '--eval', source];
  return spawnSync(NODE, args, { encoding: 'utf8', timeout: 60_000 * SLOWNESS });
}

describe('with work in flight', () => {
  it('process.exit() ends the process in order', () => {
    expect(run(script('process.exit(7)'))).toMatchObject({ status: 7, signal: null });
  });

  it('process.exit() in a worker thread ends that thread only', () => {
    const source = `
      const { Worker } = await import('node:worker_threads');
      const url = new URL('data:text/javascript,' + encodeURIComponent(${JSON.stringify(script('process.exit(3)'))}));
      new Worker(url).on('exit', (code) => process.exit(code));
    `;
    expect(run(source)).toMatchObject({ status: 3, signal: null });
  });
});
