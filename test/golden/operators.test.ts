/** The native JiT operators and noise against the released code's building blocks (fixtures/algorithm). */
import { describe, expect, it } from 'vitest';
import { jit, latentOps, Tensor } from '../support/device.js';
import { activateByImportance, Random, SamplerCore } from '../../src/sampler/index.js';
import type { Grid } from '../../src/types.js';
import { expectError } from '../support/errors.js';
import { readManifest } from '../support/manifest.js';
import { expectWithin, maxAbs, printParityTable } from '../support/parity.js';
import { nearestPositions } from '../support/reference-operators.js';
import { SafeTensors } from '../support/safetensors.js';

printParityTable('JiT operators, against the released code');

interface Manifest {
  interpolation: { list: { name: string; grid: [number, number] }[] };
  densify: { list: { name: string; grid?: [number, number]; target?: number }[] };
}
const manifest = readManifest<Manifest>('algorithm/algorithm.manifest.json');

/** A tensor of a fixture file, as [images, tokens, channels] or whatever it is. */
function load(file: SafeTensors, name: string): Tensor {
  return Tensor.from(file.float32(name), file.shape(name));
}

describe('lift', () => {
  const file = SafeTensors.open('algorithm/interpolation.safetensors');
  it.each(manifest.interpolation.list)('$name', async ({ name, grid }) => {
    using values = load(file, `${name}.values`);
    const anchors = file.int32(`${name}.active`);
    using lifted = await jit.lift(values, anchors, grid);
    const actual = await lifted.toFloat32Array();
    expectWithin(`lift ${name}`, 'max abs', maxAbs(actual, file.float32(`${name}.output`)), 1e-5);
    // Anchors keep their value exactly: S_k^T Pi_k u = u.
    using back = await jit.gather(lifted, anchors);
    expect(await back.toFloat32Array()).toEqual(file.float32(`${name}.values`));
  });

  it('fused with the Euler step gives the same field and state', async () => {
    const { name, grid } = manifest.interpolation.list.find((entry) => entry.name === 'c16x16')!;
    using values = load(file, `${name}.values`);
    const anchors = file.int32(`${name}.active`);
    using latents = Tensor.randn([2, 256, 16], { seed: 5 });
    const before = await latents.toFloat32Array();
    using velocity = await jit.step(latents, values, { anchors, grid, dSigma: -0.125 });
    const field = await velocity.toFloat32Array();
    expect(maxAbs(field, file.float32(`${name}.output`))).toBeLessThanOrEqual(1e-5);
    const expected = before.map((x, i) => x - 0.125 * field[i]!);
    expectWithin('step latents', 'max abs', maxAbs(await latents.toFloat32Array(), expected), 1e-6);
  });

  it('handles grids narrower than the kernel, down to one token', async () => {
    for (const grid of [
      [1, 1],
      [1, 5],
      [2, 3],
      [3, 2],
    ] as Grid[]) {
      using v = Tensor.from(Float32Array.of(2, -3), [1, 1, 2]);
      using lifted = await jit.lift(v, Int32Array.of(0), grid);
      const data = await lifted.toFloat32Array();
      for (let i = 0; i < data.length; i++) expect(data[i]).toBeCloseTo(i % 2 === 0 ? 2 : -3, 5);
    }
  });
});

describe('importance', () => {
  const file = SafeTensors.open('algorithm/densify.safetensors');
  const grids = new Map(
    manifest.densify.list
      .filter((entry) => entry.grid)
      .map((entry) => [entry.name.split('.target')[0]!, entry.grid!]),
  );
  it.each([...grids])('%s', async (name, grid) => {
    using velocity = load(file, `${name}.velocity`);
    const map = await jit.importance(velocity, grid);
    const expected = file.float32(`${name}.importance`);
    const largest = Math.max(...expected);
    expectWithin(`importance ${name}`, 'max abs / max', maxAbs(map, expected) / largest, 1e-5);
  });

  it.each(manifest.densify.list.filter((entry) => entry.target !== undefined))(
    'selection of $name',
    async ({ name, grid, target }) => {
      const base = name.split('.target')[0]!;
      const active = file.int32(`${base}.active`);
      using velocity = load(file, `${base}.velocity`);
      const map = await jit.importance(velocity, grid!);
      const count = Math.min(target!, grid![0] * grid![1]);
      const selected = activateByImportance(active, count, map);
      const expected = file.int32(`${name}.indices`);
      expect(selected.slice(0, active.length)).toEqual(active);
      expect([...selected].sort((a, b) => a - b)).toEqual([...expected].sort((a, b) => a - b));
    },
  );
});

describe('selectTokens', () => {
  const grid: Grid = [9, 7];
  const newcomers = (anchors: Int32Array, count: number, map: Float32Array): Int32Array =>
    activateByImportance(anchors, anchors.length + count, map).subarray(anchors.length);

  it('chooses what the sampler chooses, in the same order, for every image', async () => {
    const lists = [Int32Array.of(3, 60, 11), Int32Array.of(0, 62, 31)];
    using velocity = Tensor.randn([2, 63, 16], { seed: 8 });
    const map = await jit.importance(velocity, grid);
    for (const count of [0, 1, 17, 60]) {
      const shared = await jit.selectTokens(velocity, { anchors: lists[0]!, count, grid });
      const own = await jit.selectTokens(velocity, {
        anchors: Int32Array.from([...lists[0]!, ...lists[1]!]),
        perImage: true,
        count,
        grid,
      });
      for (const b of [0, 1]) {
        const of = map.slice(b * 63, (b + 1) * 63);
        expect(shared.slice(b * count, (b + 1) * count)).toEqual(newcomers(lists[0]!, count, of));
        expect(own.slice(b * count, (b + 1) * count)).toEqual(newcomers(lists[b]!, count, of));
      }
    }
  });

  it('breaks ties by index, and refuses more than there are', async () => {
    using flat = Tensor.from(new Float32Array(63 * 2), [1, 63, 2]);
    const anchors = Int32Array.of(1, 0, 5);
    expect(await jit.selectTokens(flat, { anchors, count: 4, grid })).toEqual(Int32Array.of(2, 3, 4, 6));
    await expectError(
      () => jit.selectTokens(flat, { anchors, count: 61, grid }),
      'ERR_JITFLUX_INVALID_ARGUMENT',
      /0 to 60/,
    );
  });

  it.each(['of every image', 'shared'])(
    'decides in a run with anchors %s as the sampler itself would, ties included, without the map',
    async (kind) => {
      const own: Grid = [8, 6];
      const [images, tokens, channels] = [2, 48, 3];
      const latents = Tensor.randn([images, tokens, channels], { seed: [1, 2] });
      // Rough in the upper half, where images differ; even in the lower one, so that many tokens are equally important.
      const field = new Float32Array(images * tokens * channels);
      const rough = new Random(5n);
      for (let b = 0; b < images; b++) {
        for (let i = 0; i < 18 * channels; i++) field[b * tokens * channels + i] = rough.next();
      }
      using velocity = Tensor.from(field, [images, tokens, channels]);
      const run = async (operators: Partial<typeof jit>) => {
        let maps = 0;
        const sampler = new SamplerCore(
          {
            velocity: ({ tokens: active, anchors }) => {
              if (anchors === undefined) return Promise.resolve(velocity.clone());
              return jit.gather(velocity, anchors, { perImage: anchors.length !== active.shape[1] });
            },
          },
          {
            stageRatios: [0.3, 0.6, 0.8, 1],
            tokenRatios: [0.3, 0.5, 0.8, 1],
            steps: 10,
            grid: [own[0], own[1]],
            latents,
            seed: [7n, 8n],
            ...(kind === 'shared' && { initialAnchors: Int32Array.from({ length: 14 }, (_, i) => 3 * i) }),
          },
          {
            operators: {
              ...jit,
              importance: (v, on) => {
                maps++;
                return jit.importance(v, on);
              },
              ...operators,
            },
            randn: (shape, seeds) => Tensor.randn(shape, { seed: seeds }),
          },
        );
        const anchors = [];
        for await (const event of sampler) anchors.push(event.anchors);
        const final = await sampler.latents.toFloat32Array();
        sampler.dispose();
        return { anchors, final, maps };
      };
      const native = await run({});
      const sorted = await run({ selectTokens: undefined as unknown as typeof jit.selectTokens });
      expect(native.anchors).toEqual(sorted.anchors);
      expect(native.final).toEqual(sorted.final);
      expect([native.maps, sorted.maps]).toEqual([0, 2]);
      latents.dispose();
    },
  );
});

describe('micro-flow', () => {
  const file = SafeTensors.open('algorithm/microflow.safetensors');
  it.each([1, 2])('bridge, batch %i', async (batch) => {
    const name = `bridge.batch${batch}`;
    using target = load(file, `${name}.target`);
    const newTokens = file.int32(`${name}.new_indices`);
    for (const steps of [0, 1, 3]) {
      using y = load(file, `${name}.y`);
      await jit.microFlow(y, { mode: 'relax', steps, newTokens, target });
      const expected = file.float32(`${name}.steps${steps}.output`);
      expectWithin(`${name} relax ${steps}`, 'max abs', maxAbs(await y.toFloat32Array(), expected), 1e-5);
    }
    // The hitting ODE lands on the target.
    using y = load(file, `${name}.y`);
    await jit.microFlow(y, { mode: 'finite-time', newTokens, target });
    expect(await y.toFloat32Array()).toEqual(file.float32(`${name}.steps0.output`));
  });

  it.each([1, 2])('target, batch %i', async (batch) => {
    const name = `target.batch${batch}`;
    using before = load(file, `${name}.last_y`);
    using velocity = load(file, `${name}.velocity`);
    using noise = load(file, `${name}.noise`);
    using clean = await jit.predictClean(before, velocity, 0.87125);
    expectWithin(
      `predictClean batch ${batch}`,
      'max abs',
      maxAbs(await clean.toFloat32Array(), file.float32(`${name}.x0`)),
      1e-5,
    );
    using target = await jit.microFlowTarget({
      clean,
      noise,
      anchors: file.int32(`${name}.current`),
      newTokens: file.int32(`${name}.fresh`),
      sigma: 0.8035,
      grid: [8, 8],
    });
    expectWithin(
      `microFlowTarget batch ${batch}`,
      'max abs',
      maxAbs(await target.toFloat32Array(), file.float32(`${name}.target`)),
      1e-5,
    );
  });

  it('packs and unpacks as diffusers does', async () => {
    using latents = load(file, 'pack.latents');
    using packed = await latentOps.pack(latents);
    expect(await packed.toFloat32Array()).toEqual(file.float32('pack.packed'));
    using unpacked = await latentOps.unpack(packed, [3, 5], { scale: 1, shift: 0 });
    expect(unpacked.shape).toEqual([2, 16, 6, 10]);
    expect(await unpacked.toFloat32Array()).toEqual(file.float32('pack.latents'));
  });
});

describe('randn', () => {
  const file = SafeTensors.open('algorithm/random.safetensors');
  it.each([0, 42, 123456789])('equals torch.Generator("cpu"), seed %i', async (seed) => {
    const draw = async (
      shape: number[],
      dtype: 'float32' | 'float64' | 'bfloat16' | 'float16' = 'float32',
    ) => {
      using noise = Tensor.randn(shape, { seed, dtype });
      return noise.toFloat32Array();
    };
    expect(await draw([15])).toEqual(file.float32(`randn.seed${seed}.15`));
    expect(await draw([17])).toEqual(file.float32(`randn.seed${seed}.17`));
    expect(await draw([1, 16, 8, 8])).toEqual(file.float32(`randn.seed${seed}.1x16x8x8`));
    const large = await draw([1, 16, 128, 128]);
    expect(large.slice(0, 64)).toEqual(file.float32(`randn.seed${seed}.1x16x128x128.first64`));
    for (const dtype of ['bfloat16', 'float16', 'float64'] as const) {
      expect(await draw([64], dtype)).toEqual(file.float32(`randn.seed${seed}.64.${dtype}`));
    }
  });

  it('draws every image of a batch from its own seed', async () => {
    using batch = Tensor.randn([2, 16, 8, 8], { seed: [0, 42] });
    const data = await batch.toFloat32Array();
    expect(data.slice(0, 1024)).toEqual(file.float32('randn.seed0.1x16x8x8'));
    expect(data.slice(1024)).toEqual(file.float32('randn.seed42.1x16x8x8'));
  });
});

describe('against a brute-force search', () => {
  it('finds the exact nearest anchor on random grids, ties to the earliest in the list', async () => {
    const random = new Random(7);
    for (let trial = 0; trial < 200; trial++) {
      const rows = 1 + random.below(24);
      const cols = 1 + random.below(24);
      const order = random.permutation(rows * cols);
      const anchors = order.slice(
        0,
        1 + random.below(trial % 2 === 0 ? Math.min(5, order.length) : order.length),
      );
      // A channel that holds the anchor's list position: without the blur it is the nearest map.
      using v = Tensor.from(
        Float32Array.from(anchors, (_, i) => i),
        [1, anchors.length, 1],
      );
      using nearest = await jit.liftNearest(v, anchors, [rows, cols]);
      expect([...(await nearest.toFloat32Array())]).toEqual([...nearestPositions(anchors, [rows, cols])]);
      using lifted = await jit.lift(v, anchors, [rows, cols]);
      expect(maxAbs(await lifted.toFloat32Array(), bruteForceLift(anchors, rows, cols))).toBeLessThan(1e-3);
    }
  });
});

/** Lift of the list positions, from the definition: N x M distances, then the blur with reflected borders. */
function bruteForceLift(anchors: Int32Array, rows: number, cols: number): Float32Array {
  const tokens = rows * cols;
  const nearest = Array.from({ length: tokens }, (_, token) => {
    let best = Infinity;
    let position = -1;
    anchors.forEach((anchor, i) => {
      const dr = Math.floor(anchor / cols) - Math.floor(token / cols);
      const dc = (anchor % cols) - (token % cols);
      if (dr * dr + dc * dc < best) [best, position] = [dr * dr + dc * dc, i];
    });
    return position;
  });
  const sigma = Math.min(10, Math.max(1, 0.4 / Math.sqrt(anchors.length / tokens)));
  const radius = Math.ceil(3 * sigma);
  const weights = Array.from({ length: 2 * radius + 1 }, (_, j) =>
    Math.exp(-0.5 * ((j - radius) / sigma) ** 2),
  );
  const sum = weights.reduce((a, b) => a + b);
  const reflect = (i: number, n: number): number => {
    while (n > 1 && (i < 0 || i >= n)) i = i < 0 ? -i : 2 * (n - 1) - i;
    return n === 1 ? 0 : i;
  };
  const isAnchor = new Map([...anchors].map((token, i) => [token, i]));
  return Float32Array.from({ length: tokens }, (_, token) => {
    const own = isAnchor.get(token);
    if (own !== undefined) return own;
    let value = 0;
    for (let y = -radius; y <= radius; y++) {
      for (let x = -radius; x <= radius; x++) {
        const r = reflect(Math.floor(token / cols) + y, rows);
        const c = reflect((token % cols) + x, cols);
        value += ((weights[y + radius]! * weights[x + radius]!) / (sum * sum)) * nearest[r * cols + c]!;
      }
    }
    return value;
  });
}
