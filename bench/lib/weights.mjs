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
  const { config } = MODELS[name];
  const stem = join(work, `${name}-v${VERSION}-bfloat16`);
  return createOnce(`${stem}.safetensors`, (partial) => {
    writeRandomSafetensors(partial, fluxTransformerTensors(config), {
      dtype: 'bfloat16',
      normals: normalTable({ seed: 4 }),
    });
    writeFileSync(`${stem}.config.json`, JSON.stringify({ axes_dims_rope: config.ropeAxes }));
  });
}

/**
 * A model of the same widths under the original checkpoints' names, which is what other engines read.
 * @param {import('./models.mjs').ModelName} name
 * @param {string} work
 */
export function originalFile(name, work) {
  const { config } = MODELS[name];
  const stem = join(work, `${name}-original-v${VERSION}-bfloat16`);
  return createOnce(`${stem}.safetensors`, (partial) => {
    writeRandomSafetensors(partial, originalFluxTensors(config), {
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
  return createOnce(join(work, `autoencoder-${widths}-v${VERSION}-float32.safetensors`), (partial) => {
    const channels = widths === 'flux' ? [128, 256, 512, 512] : [32, 32, 64, 64];
    writeRandomSafetensors(partial, autoencoderTensors(channels), {
      dtype: 'float32',
      normals: normalTable({ seed: 5 }),
    });
  });
}

/**
 * Two layers of a T5 v1.1 encoder in bfloat16.
 * @param {'flux' | 'tiny'} widths T5-XXL's, or toy ones
 * @param {string} work
 */
export function t5File(widths, work) {
  return createOnce(join(work, `t5-${widths}-v${VERSION}-bfloat16.safetensors`), (partial) => {
    writeRandomSafetensors(partial, t5Tensors(T5[widths]), {
      dtype: 'bfloat16',
      normals: normalTable({ seed: 6 }),
    });
  });
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
  return createOnce(join(work, `clip-${widths}-v${VERSION}-bfloat16.safetensors`), (partial) => {
    writeRandomSafetensors(partial, clipTensors(CLIP[widths]), {
      dtype: 'bfloat16',
      normals: normalTable({ seed: 7 }),
    });
  });
}

/** Heads of 64, as CLIP's loader takes them to be where no config.json says otherwise. */
export const CLIP = {
  flux: { width: 768, mlp: 3072, heads: 12, vocab: 49408, layers: 12 },
  tiny: { width: 128, mlp: 256, heads: 2, vocab: 1024, layers: 2 },
};
