/**
 * flux-mini, the transformer that most tests run: 2 double and 3 single blocks with random weights, in the file that
 * diffusers wrote (fixtures/flux). Other forms of the same weights are made of it when a test file asks for them.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll } from 'vitest';
import { convertModel } from '../../src/convert/index.js';
import { FluxTransformer } from '../../src/engine/index.js';
import type { LoadOptions } from '../../src/types.js';
import { originalTransformer } from './original-layout.js';
import { SafeTensors, fixturePath, writeSafeTensors } from './safetensors.js';

export const MINI = fixturePath('flux/flux-mini.safetensors');
/** RoPE axes, which the weights do not tell. */
export const MINI_AXES: [number, number, number] = [8, 12, 12];

/** Loads flux-mini. @param Model the class, where it is not the engine's own: that of support/device.ts */
export function loadMini(
  o: LoadOptions & { ropeAxes?: [number, number, number] } = {},
  Model: Pick<typeof FluxTransformer, 'load'> = FluxTransformer,
  path = MINI,
): Promise<FluxTransformer> {
  return Model.load(path, { ropeAxes: MINI_AXES, ...o });
}

/** Path of flux-mini under the names and in the fused matrices of the original checkpoints. */
export function originalLayoutMini(): string {
  const path = join(scratch(), 'flux-mini.original-layout.safetensors');
  writeSafeTensors(path, originalTransformer(SafeTensors.open(MINI).all()));
  return path;
}

/** Path of flux-mini as a TorchScript archive of our writer. */
export async function archiveMini(): Promise<string> {
  const path = join(scratch(), 'flux-mini.pt');
  await convertModel(MINI, path);
  return path;
}

/** A folder that is removed after the tests of the file. */
function scratch(): string {
  const directory = mkdtempSync(join(tmpdir(), 'jit-flux-mini-'));
  afterAll(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}
