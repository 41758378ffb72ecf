// Time and peak memory of the autoencoder at FLUX.1's widths, each case in a process of its own:
//
//   npm run build:all && node tools/measure-vae.mjs [vae.safetensors]
//
// Without a file, random weights of FLUX.1's shapes are written to a temporary folder. Peak memory is VmHWM of
// /proc/self/status after the call, less VmRSS before it. docs/vae-memory.md quotes the table.
import { execFileSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { fileURLToPath } from 'node:url';

const SELF = fileURLToPath(import.meta.url);
const CASES = [
  // what, dtype, pixels, tiling
  ['decode', 'float32', 512, false],
  ['decode', 'float32', 512, true],
  ['decode', 'float32', 1024, false],
  ['decode', 'float32', 1024, true],
  ['decode', 'bfloat16', 512, false],
  ['decode', 'bfloat16', 1024, false],
  ['decode', 'bfloat16', 1024, true],
  ['encode', 'float32', 1024, false],
];

/** Names and shapes of FLUX.1's autoencoder in diffusers' layout. */
function fluxShapes() {
  const shapes = [];
  const channels = [128, 256, 512, 512];
  const module = (name, weight) => shapes.push([`${name}.weight`, weight], [`${name}.bias`, [weight[0]]]);
  const block = (name, input, output) => {
    module(`${name}.norm1`, [input]);
    module(`${name}.conv1`, [output, input, 3, 3]);
    module(`${name}.norm2`, [output]);
    module(`${name}.conv2`, [output, output, 3, 3]);
    if (input !== output) module(`${name}.conv_shortcut`, [output, input, 1, 1]);
  };
  for (const network of ['encoder', 'decoder']) {
    const decoder = network === 'decoder';
    const levels = decoder ? channels.toReversed() : channels;
    let width = levels[0];
    module(`${network}.conv_in`, [width, decoder ? 16 : 3, 3, 3]);
    levels.forEach((output, i) => {
      const level = `${network}.${decoder ? 'up' : 'down'}_blocks.${i}`;
      for (let j = 0; j < (decoder ? 3 : 2); j++) {
        block(`${level}.resnets.${j}`, width, output);
        width = output;
      }
      const sampler = `${level}.${decoder ? 'up' : 'down'}samplers.0.conv`;
      if (i < 3) module(sampler, [output, output, 3, 3]);
    });
    const middle = `${network}.mid_block`;
    block(`${middle}.resnets.0`, 512, 512);
    block(`${middle}.resnets.1`, 512, 512);
    module(`${middle}.attentions.0.group_norm`, [512]);
    for (const part of ['to_q', 'to_k', 'to_v', 'to_out.0']) {
      module(`${middle}.attentions.0.${part}`, [512, 512]);
    }
    module(`${network}.conv_norm_out`, [width]);
    module(`${network}.conv_out`, [decoder ? 3 : 32, width, 3, 3]);
  }
  return shapes;
}

function writeRandom(path) {
  const header = {};
  const tensors = [];
  let offset = 0;
  for (const [name, shape] of fluxShapes()) {
    const size = shape.reduce((a, b) => a * b, 1);
    // Unit gains where a norm multiplies, else uniform values that keep activations O(1).
    const scale = shape.length === 1 ? 0.05 : Math.sqrt((3 * shape[0]) / size);
    const gain = /norm.*weight$/.test(name) ? 1 : 0;
    tensors.push(Float32Array.from({ length: size }, () => gain + scale * (2 * Math.random() - 1)));
    header[name] = { dtype: 'F32', shape, data_offsets: [offset, (offset += 4 * size)] };
  }
  const text = Buffer.from(JSON.stringify(header));
  const padded = Buffer.concat([text, Buffer.alloc((8 - (text.length % 8)) % 8, ' ')]);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(padded.length));
  const file = openSync(path, 'w');
  for (const part of [length, padded, ...tensors]) writeSync(file, part);
  closeSync(file);
}

/** A field of /proc/self/status, in MiB. */
function status(field) {
  const [, kib] = new RegExp(`${field}:\\s+(\\d+) kB`).exec(readFileSync('/proc/self/status', 'utf8'));
  return Number(kib) / 1024;
}

async function measure(path, [what, dtype, pixels, tiling]) {
  const { Autoencoder, Tensor } = await import('../dist/index.js');
  const vae = await Autoencoder.load(path, { dtype });
  const side = pixels / 8;
  const shape = what === 'decode' ? [1, 16, side, side] : [1, 3, pixels, pixels];
  const input = Tensor.randn(shape, { seed: 0 });
  const before = status('VmRSS');
  const start = performance.now();
  await vae[what](input, { tiling });
  const seconds = (performance.now() - start) / 1000;
  const estimate = what === 'decode' && !tiling ? vae.decodeBytes(side, side) / 1024 ** 2 : undefined;
  return { what, dtype, pixels, tiling, seconds, peak: status('VmHWM') - before, estimate };
}

if (process.argv[2] === '--case') {
  console.log(JSON.stringify(await measure(process.argv[3], JSON.parse(process.argv[4]))));
} else {
  const scratch = mkdtempSync(join(tmpdir(), 'jit-flux-vae-'));
  try {
    const path = process.argv[2] ?? join(scratch, 'vae.safetensors');
    if (process.argv[2] === undefined) writeRandom(path);
    console.log(
      '| | dtype | pixels | tiled | seconds | peak MiB | estimate MiB |\n|---|---|---|---|---|---|---|',
    );
    for (const row of CASES) {
      const output = execFileSync(process.execPath, [SELF, '--case', path, JSON.stringify(row)]);
      const r = JSON.parse(output.toString());
      const cells = [
        r.what,
        r.dtype,
        `${r.pixels}x${r.pixels}`,
        r.tiling ? 'yes' : 'no',
        r.seconds.toFixed(1),
        r.peak.toFixed(0),
        r.estimate?.toFixed(0) ?? '',
      ];
      console.log(`| ${cells.join(' | ')} |`);
    }
  } finally {
    rmSync(scratch, { recursive: true });
  }
}
