// One operation with little memory left: the address space of this process is limited to what it takes and some more.
// Prints 'ok' or the code of the error; a signal or another end is for the caller to judge.
//   node test/lifetime/programs/memory-steps.mjs <folder with models> <operation> <bytes>
import { execFileSync } from 'node:child_process';
import { readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import {
  Autoencoder,
  FluxTransformer,
  inspectWeights,
  T5Encoder,
  Tensor,
  TorchScriptModule,
} from '../../../dist/engine/index.js';
import { convertModel } from '../../../dist/index.js';
import { encode, ROPE_AXES, step } from './models.mjs';

const [, , folder = '', operation = '', extra = '0'] = process.argv;
const flux = join(folder, 'flux.safetensors');
const t5 = join(folder, 't5.safetensors');
const vae = join(folder, 'vae.safetensors');
const bundled = new URL('../../../models/flux-tiny/', import.meta.url).pathname;

const loadFlux = (/** @type {import('jit-flux').LoadOptions} */ o = {}) =>
  FluxTransformer.load(flux, { ropeAxes: ROPE_AXES, ...o });

/**
 * What is done before the limit, and returns what is done under it. Once before, where the operation is to be judged
 * and not what runs for the first time.
 * @type {Record<string, () => Promise<() => Promise<unknown>>>}
 */
const OPERATIONS = {
  // In a process that has loaded LibTorch and computed nothing: threads are started under the limit.
  'first load': async () => () => loadFlux(),
  load: async () => {
    (await T5Encoder.load(t5)).dispose();
    return () => loadFlux();
  },
  'load, not mapped': async () => {
    (await T5Encoder.load(t5)).dispose();
    return () => loadFlux({ mapWeights: false });
  },
  step: async () => {
    const model = await loadFlux();
    await step(model, 4);
    return () => step(model, 64);
  },
  'first step': async () => {
    const model = await loadFlux();
    return () => step(model, 64);
  },
  'step, int8': async () => {
    const model = await loadFlux({ quantize: 'int8', dtype: 'bfloat16' });
    return () => step(model, 64);
  },
  encode: async () => {
    const encoder = await T5Encoder.load(t5);
    await encode(encoder);
    return () => encode(encoder, 32);
  },
  decode: async () => {
    const decoder = await Autoencoder.load(vae);
    const decode = async (/** @type {number} */ side) => {
      const latents = Tensor.randn([1, 16, side, side], { seed: 1 });
      (await decoder.decode(latents, { tiling: false })).dispose();
    };
    await decode(4);
    return () => decode(96);
  },
  'run a TorchScript module': async () => {
    const module = await TorchScriptModule.load(join(bundled, 'vae_decoder.pt'));
    const run = async (/** @type {number} */ side) => {
      const latents = Tensor.randn([1, 16, side, side], { seed: 1 });
      for (const tensor of await module.run([latents])) tensor.dispose();
    };
    return () => run(256);
  },
  'load a TorchScript module': async () => () => TorchScriptModule.load(join(bundled, 'vae_decoder.pt')),
  inspect: async () => () => inspectWeights(flux),
  convert: async () => () => convertModel(flux, join(folder, `${process.pid}.pt`), { dtype: 'bfloat16' }),
};

const run = await OPERATIONS[operation]();
const size = Number(/^VmSize:\s+(\d+)/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]) * 1024;
execFileSync('prlimit', ['--pid', `${process.pid}`, `--as=${size + Number(extra)}:`]);
let outcome = 'ok';
try {
  await run();
} catch (error) {
  const { code, message } = /** @type {Error & { code?: string }} */ (error);
  outcome = `${code ?? 'no code'} ${message}`;
}
writeSync(1, outcome);
process.exit(0);
