/** The native transformer against diffusers' FluxTransformer2DModel (fixtures/flux). */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { FluxTransformer, Tensor } from '../support/device.js';
import type { LoadOptions } from '../../src/types.js';
import { MINI, archiveMini, loadMini, originalLayoutMini } from '../support/mini.js';
import { expectWithin, maxAbs, printParityTable, relativeRms } from '../support/parity.js';
import { copyWithout, fixturePath, SafeTensors, sharedFixture } from '../support/safetensors.js';

printParityTable('transformer forward, against diffusers');

const GRIDS: Record<string, [number, number]> = { grid5x7_text1: [5, 7] };
const FP32_CASES = [
  'dense_t1.0_g3.5',
  'dense_t0.5_g1.0',
  'dense_t0.03_g3.5',
  'sparse23_t0.5_g3.5',
  'batch2_t_mixed',
  'grid5x7_text1',
];

const cases = SafeTensors.open('flux/flux-mini.cases.safetensors');
const scratch = mkdtempSync(join(tmpdir(), 'jit-flux-golden-'));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

const load = (o: LoadOptions, path = MINI): Promise<FluxTransformer> => loadMini(o, FluxTransformer, path);

/** Runs one recorded case through condition() and forward(). */
async function forwardCase(
  model: FluxTransformer,
  data: SafeTensors,
  name: string,
  grid: [number, number],
): Promise<Float32Array> {
  const tensor = (argument: string): Tensor =>
    Tensor.from(data.float32(`${name}.${argument}`), data.shape(`${name}.${argument}`));
  using tokens = tensor('hidden_states');
  using prompt = tensor('encoder_hidden_states');
  using pooled = tensor('pooled_projections');
  const guidance = data.has(`${name}.guidance`) ? [...data.float32(`${name}.guidance`)] : undefined;
  const sigmas = [...data.float32(`${name}.timestep`)];
  // Image b of the case is evaluated at the b-th sigma.
  const step = sigmas.map((_, b) => b);
  const indices = data.has(`${name}.indices`) ? data.int32(`${name}.indices`) : undefined;
  using conditioning = await model.condition({
    prompt,
    pooled,
    sigmas,
    ...(guidance && { guidance }),
  });
  using velocity = await model.forward({
    tokens,
    grid,
    conditioning,
    step,
    ...(indices && { anchors: indices }),
  });
  expect(velocity.shape).toEqual(data.shape(`${name}.output`));
  return velocity.toFloat32Array();
}

// The archive that torch.jit.trace wrote is too large for the repository; flux-nano has smaller ones of every kind.
const traced = sharedFixture('flux/flux-mini.traced.pt');
const TRACED =
  traced === undefined ? 'traced (skipped: flux-mini.traced.pt is not in ../shared/fixtures)' : 'traced';

describe.each([
  ['diffusers', MINI],
  ['original', originalLayoutMini()],
  ['TorchScript', await archiveMini()],
  [TRACED, traced],
])('flux-mini in float32: %s', (layout, path) => {
  it.skipIf(path === undefined).each(FP32_CASES)('%s', async (name) => {
    using model = await load({}, path);
    const output = await forwardCase(model, cases, name, GRIDS[name] ?? [8, 8]);
    expectWithin(`${layout} ${name}`, 'max abs', maxAbs(output, cases.float32(`${name}.output`)), 1e-4);
  });
});

describe('flux-mini in bfloat16', () => {
  it.each(['dense_t0.5_g1.0', 'sparse23_t0.5_g3.5'])('%s', async (name) => {
    using model = await load({ dtype: 'bfloat16' });
    const output = await forwardCase(model, cases, name, [8, 8]);
    const expected = cases.float32(`${name}.output.bfloat16`);
    expectWithin(`bfloat16 ${name}`, 'relative rms', relativeRms(output, expected), 2e-2);
  });

  it('keeps the time embedding in float32 on request', async () => {
    // sparse23's guidance of 3.5 becomes 3504 / 1000 in bfloat16; the exact mode stays near float32.
    const name = 'sparse23_t0.5_g3.5';
    using model = await load({ dtype: 'bfloat16', timeEmbedding: 'exact' });
    const output = await forwardCase(model, cases, name, [8, 8]);
    expectWithin(
      `bfloat16 exact ${name}`,
      'relative rms',
      relativeRms(output, cases.float32(`${name}.output`)),
      2e-2,
    );
  });
});

it('runs a model without guidance embedder (schnell)', async () => {
  const path = join(scratch, 'schnell.safetensors');
  copyWithout('flux/flux-mini.safetensors', path, (name) =>
    name.startsWith('time_text_embed.guidance_embedder.'),
  );
  using model = await load({}, path);
  expect(model.config.guidance).toBe(false);
  const output = await forwardCase(model, cases, 'schnell_t0.5', [8, 8]);
  expectWithin('schnell_t0.5', 'max abs', maxAbs(output, cases.float32('schnell_t0.5.output')), 1e-4);
});

describe('flux-nano in every kind of archive', () => {
  const nano = SafeTensors.open('flux/flux-nano.cases.safetensors');
  const axes: LoadOptions & { ropeAxes: [number, number, number] } = { ropeAxes: [4, 6, 6] };
  it.each([
    ['flux-nano.safetensors', 1e-4],
    ['flux-nano.traced-wrapped.pt', 1e-4],
    ['flux-nano.scripted-container.pt', 1e-4],
    ['flux-nano.original-layout.scripted.pt', 1e-4],
    // Weights rounded to 16 bits, computed in float32.
    ['flux-nano.bfloat16.scripted.pt', 5e-2],
    ['flux-nano.float16.scripted.pt', 1e-2],
  ])('%s', async (file, bound) => {
    using model = await FluxTransformer.load(fixturePath(`flux/${file}`), axes);
    // The last token's ids are [0, rows - 1, cols - 1].
    const [, row, col] = nano.float32('dense.img_ids').slice(-3);
    const grid: [number, number] = [row! + 1, col! + 1];
    const output = await forwardCase(model, nano, 'dense', grid);
    expectWithin(file, 'max abs', maxAbs(output, nano.float32('dense.output')), bound);
  });
});

it('gives every image of a batch the velocity it has alone, with shared and with own anchors', async () => {
  using model = await load({});
  const [T, M, N] = [5, 20, 64];
  using prompt = Tensor.randn([2, T, 96], { seed: 1 });
  using pooled = Tensor.randn([2, 48], { seed: 2 });
  using latents = Tensor.randn([2, M, 64], { seed: 3 });
  const lists = [
    Int32Array.from({ length: M }, (_, i) => (i * 3) % N),
    Int32Array.from({ length: M }, (_, i) => (i * 5 + 1) % N),
  ];
  using conditioning = await model.condition({ prompt, pooled, guidance: [1, 4], sigmas: [0.9, 0.4] });
  const both = Int32Array.from([...lists[0]!, ...lists[1]!]);
  using batched = await model.forward({
    tokens: latents,
    anchors: both,
    grid: [8, 8],
    conditioning,
    step: 1,
  });
  const batchedData = await batched.toFloat32Array();
  const image = async (tensor: Tensor, b: number): Promise<Tensor> => {
    const data = await tensor.toFloat32Array();
    const size = data.length / 2;
    return Tensor.from(data.slice(b * size, (b + 1) * size), [1, ...tensor.shape.slice(1)]);
  };
  for (const b of [0, 1]) {
    using alone = await model.condition({
      prompt: await image(prompt, b),
      pooled: await image(pooled, b),
      guidance: [1, 4][b]!,
      sigmas: [0.4],
    });
    using velocity = await model.forward({
      tokens: await image(latents, b),
      anchors: lists[b]!,
      grid: [8, 8],
      conditioning: alone,
      step: 0,
    });
    const size = M * 64;
    expectWithin(
      `batch image ${b} against a single run`,
      'max abs',
      maxAbs(batchedData.slice(b * size, (b + 1) * size), await velocity.toFloat32Array()),
      1e-5,
    );
  }
});
