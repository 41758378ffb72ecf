// Weight files with random numbers, written once into the working directory.
import { existsSync, mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import {
  autoencoderTensors,
  clipTensors,
  fluxTransformerTensors,
  normalTable,
  originalFluxTensors,
  t5Tensors,
  writeRandomSafetensors,
} from '../../tools/lib/random-weights.mjs';
import { MODELS } from './models.mjs';

/** Part of the files' names: raise it when their contents change. */
const VERSION = 1;

/**
 * Creates what is missing, under another name first: an interrupted run leaves no half file behind.
 * @param {string} path
 * @param {(partial: string) => unknown} create
 * @returns {Promise<string>} path
 */
export async function createOnce(path, create) {
  if (existsSync(path)) return path;
  mkdirSync(dirname(path), { recursive: true });
  // The ending says what kind of file it is.
  const partial = join(dirname(path), `partial-${process.pid}-${basename(path)}`);
  try {
    await create(partial);
    renameSync(partial, path);
  } finally {
    rmSync(partial, { recursive: true, force: true });
  }
  return path;
}

/**
 * The model as safetensors under diffusers' names, with the RoPE axes beside it. Every side of a comparison reads this
 * one file whatever it computes in: bfloat16 values are exact in float32, so that even different types of arithmetic
 * share their weights. (A second file in float32 would say the same in 2 GB more.)
 * @param {import('./models.mjs').ModelName} name
 * @param {string} work
 */
export function weightsFile(name, work) {
  return fluxFile(join(work, `${name}-v${VERSION}-bfloat16`), name, fluxTransformerTensors);
}

/**
 * A model of the same widths under the original checkpoints' names, which is what other engines read.
 * @param {import('./models.mjs').ModelName} name
 * @param {string} work
 */
export function originalFile(name, work) {
  return fluxFile(join(work, `${name}-original-v${VERSION}-bfloat16`), name, originalFluxTensors);
}

/**
 * @param {string} stem of the path
 * @param {import('./models.mjs').ModelName} name
 * @param {typeof fluxTransformerTensors} tensors under which names
 */
function fluxFile(stem, name, tensors) {
  const { config } = MODELS[name];
  return createOnce(`${stem}.safetensors`, (partial) => {
    writeRandomSafetensors(partial, tensors(config), {
      dtype: 'bfloat16',
      normals: normalTable({ seed: 4 }),
    });
    writeFileSync(`${stem}.config.json`, JSON.stringify({ axes_dims_rope: config.ropeAxes }));
  });
}

/**
 * The model as a TorchScript archive in float32, written by our own converter.
 * @param {import('./models.mjs').ModelName} name
 * @param {string} work
 */
export function torchScriptArchive(name, work) {
  return createOnce(join(work, `${name}-v${VERSION}-float32.pt`), async (partial) => {
    const { convertModel } = await import('jit-flux');
    await convertModel(await weightsFile(name, work), partial, { dtype: 'float32' });
  });
}

/**
 * An autoencoder in float32.
 * @param {'flux' | 'tiny'} widths FLUX.1's, or toy ones
 * @param {string} work
 */
export function autoencoderFile(widths, work) {
  const channels = widths === 'flux' ? [128, 256, 512, 512] : [32, 32, 64, 64];
  return partFile(`autoencoder-${widths}`, work, autoencoderTensors(channels), { dtype: 'float32', seed: 5 });
}

/**
 * @param {string} name
 * @param {string} work
 * @param {Parameters<typeof writeRandomSafetensors>[1]} tensors
 * @param {{ dtype: 'float32' | 'bfloat16', seed: number }} o
 */
function partFile(name, work, tensors, { dtype, seed }) {
  return createOnce(join(work, `${name}-v${VERSION}-${dtype}.safetensors`), (partial) => {
    writeRandomSafetensors(partial, tensors, { dtype, normals: normalTable({ seed }) });
  });
}

/**
 * Two layers of a T5 v1.1 encoder in bfloat16.
 * @param {'flux' | 'tiny'} widths T5-XXL's, or toy ones
 * @param {string} work
 */
export function t5File(widths, work) {
  return partFile(`t5-${widths}`, work, t5Tensors(T5[widths]), { dtype: 'bfloat16', seed: 6 });
}

/** The vocabulary is small: no figure depends on it. */
export const T5 = {
  flux: { width: 4096, mlp: 10240, heads: 64, vocab: 1024, layers: 2 },
  tiny: { width: 48, mlp: 96, heads: 3, vocab: 1024, layers: 2 },
};

/**
 * A CLIP text encoder in bfloat16.
 * @param {'flux' | 'tiny'} widths CLIP-L's, or toy ones
 * @param {string} work
 */
export function clipFile(widths, work) {
  return partFile(`clip-${widths}`, work, clipTensors(CLIP[widths]), { dtype: 'bfloat16', seed: 7 });
}

/** Heads of 64, as CLIP's loader takes them to be where no config.json says otherwise. */
export const CLIP = {
  flux: { width: 768, mlp: 3072, heads: 12, vocab: 49408, layers: 12 },
  tiny: { width: 128, mlp: 256, heads: 2, vocab: 1024, layers: 2 },
};
