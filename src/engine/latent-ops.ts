import { checkFloat, readOptions } from '../arguments.js';
import { readGrid } from '../sampler/stages.js';
import { runNative } from './call.js';
import type { Grid } from '../types.js';
import { handleOf } from './native-object.js';
import { Tensor, tensorOf } from './tensor.js';

/** Layout of latents around the VAE. */
export const latentOps = {
  /** Packed tokens [B, rows*cols, 4C] to the VAE's input [B, C, 2*rows, 2*cols]: value / scale + shift. */
  async unpack(tokens: Tensor, grid: Grid, given: { scale: number; shift: number }): Promise<Tensor> {
    const { scale, shift } = readOptions(given, { scale: true, shift: true });
    const factors = { scale: checkFloat('scale', scale), shift: checkFloat('shift', shift) };
    const o = { tokens: handleOf(tokens, 'tokens'), grid: readGrid(grid), ...factors };
    return tensorOf(await runNative((binding, job) => binding.unpack(o, job)));
  },

  /** [B, C, 2*rows, 2*cols] to packed tokens [B, rows*cols, 4C]; token channel = c*4 + dy*2 + dx. */
  async pack(latents: Tensor): Promise<Tensor> {
    const handle = handleOf(latents, 'latents');
    return tensorOf(await runNative((binding, job) => binding.pack(handle, job)));
  },

  /** Pictures [B, 3, H, W] in [-1, 1] to B*H*W*3 RGB bytes: round(clamp(x/2 + 0.5) * 255). */
  async toImage(pictures: Tensor): Promise<Uint8Array> {
    const handle = handleOf(pictures, 'pictures');
    return runNative((binding, job) => binding.toImage(handle, job));
  },
};
