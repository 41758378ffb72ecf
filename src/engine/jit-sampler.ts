import { SamplerCore } from '../sampler/sampler.js';
import type { Device, SampleOptions, VelocityModel } from '../types.js';
import { jit } from './jit.js';
import { Tensor } from './tensor.js';

/**
 * The JiT sampler on native tensors: `for await` gives one event per step, after its Euler update.
 * See {@link SamplerCore}.
 */
export class JitSampler extends SamplerCore<Tensor> {
  constructor(model: VelocityModel<Tensor>, options: SampleOptions<Tensor>) {
    let device: Device = 'cpu';
    super(model, options, {
      operators: jit,
      randn: (shape, seeds) => Tensor.randn(shape, { seed: seeds, device }),
    });
    // Of the copy: what the options say may be another tensor by the time that noise is drawn.
    ({ device } = this.latents);
  }
}
