// Weight files with random numbers, written once into the working directory.
import { existsSync, mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  fluxTransformerTensors,
  normalTable,
  writeRandomSafetensors,
} from '../../tools/lib/random-weights.mjs';
import { MODELS } from './models.mjs';

/** Part of the files' names: raise it when their contents change. */
const VERSION = 1;

/**
 * The model as safetensors under diffusers' names, with the RoPE axes beside it. Every side of a comparison reads this
 * one file whatever it computes in: bfloat16 values are exact in float32, so that even different types of arithmetic
 * share their weights. (A second file in float32 would say the same in 2 GB more.)
 * @param {keyof typeof MODELS} name
 * @param {string} work
 * @param {'bfloat16' | 'float32'} [dtype]
 * @returns {string} path
 */
export function weightsFile(name, work, dtype = 'bfloat16') {
  const { config } = MODELS[name];
  const stem = join(work, `${name}-v${VERSION}-${dtype}`);
  const path = `${stem}.safetensors`;
  if (existsSync(path)) return path;
  mkdirSync(work, { recursive: true });
  const partial = `${path}.${process.pid}`;
  try {
    writeRandomSafetensors(partial, fluxTransformerTensors(config), {
      dtype,
      normals: normalTable({ seed: 4 }),
    });
    writeFileSync(`${stem}.config.json`, JSON.stringify({ axes_dims_rope: config.ropeAxes }));
    renameSync(partial, path);
  } finally {
    rmSync(partial, { force: true });
  }
  return path;
}

/**
 * The model as a TorchScript archive in float32, written by our own converter.
 * @param {keyof typeof MODELS} name
 * @param {string} work
 * @returns {Promise<string>} path
 */
export async function torchScriptArchive(name, work) {
  const path = join(work, `${name}-v${VERSION}-float32.pt`);
  if (existsSync(path)) return path;
  const { convertModel } = await import('jit-flux');
  await convertModel(weightsFile(name, work), path, { dtype: 'float32' });
  return path;
}
