// An activation policy of your own: important tokens, but not all of them in one place.
//   node examples/activation-policy.mjs [output.png]
import { writeFile } from 'node:fs/promises';
import { BUNDLED_MODEL, FluxPipeline } from 'jit-flux';

const output = process.argv[2] ?? 'activation-policy.png';

// Called once per image where a denser stage begins. Takes the most important inactive token, halves the importance of
// its neighbours, and so on; the built-in policy takes the most important ones whatever lies beside them.
/** @type {import('jit-flux').ActivationPolicy} */
async function spread({ stage, grid: [rows, cols], anchors, targetCount, importance }) {
  const value = Float32Array.from(await importance());
  const active = new Set(anchors);
  while (active.size < targetCount) {
    let best = -1;
    for (let token = 0; token < rows * cols; token++) {
      if (!active.has(token) && (best < 0 || value[token] > value[best])) best = token;
    }
    active.add(best);
    const [row, col] = [Math.floor(best / cols), best % cols];
    for (let r = Math.max(0, row - 1); r <= Math.min(rows - 1, row + 1); r++) {
      for (let c = Math.max(0, col - 1); c <= Math.min(cols - 1, col + 1); c++) value[r * cols + c] /= 2;
    }
  }
  console.log(`stage ${stage}: ${anchors.length} -> ${active.size} of ${rows * cols} tokens`);
  return Int32Array.from(active); // in the order in which they joined
}

const pipeline = await FluxPipeline.load(BUNDLED_MODEL);
try {
  const request = { prompt: 'a large yellow star in the night sky', seed: 7, width: 128, height: 128 };
  const picture = async (/** @type {Omit<import('jit-flux').GenerateRequest, 'prompt'>} */ more) =>
    (await pipeline.generate({ ...request, ...more })).images[0];
  const dense = await picture({ preset: 'dense' });
  const mine = await picture({ preset: 'jit-7x', activation: spread });
  // How far from the picture of all tokens in all steps: root mean square over the pixels, 0 to 255.
  const distance = (/** @type {import('jit-flux').GeneratedImage} */ { data }) =>
    Math.sqrt(data.reduce((sum, value, i) => sum + (value - dense.data[i]) ** 2, 0) / data.length).toFixed(1);
  console.log(`own policy: ${distance(mine)} from dense`);
  for (const activation of /** @type {const} */ (['importance', 'grid'])) {
    console.log(`${activation}: ${distance(await picture({ preset: 'jit-7x', activation }))} from dense`);
  }
  await writeFile(output, mine.toPNG());
} finally {
  await pipeline.dispose();
}
