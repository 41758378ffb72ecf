/** Setup of the project golden-cuda: skips every test, with the reason, where there is neither a GPU nor the emulation. */
import { beforeEach } from 'vitest';
import { cudaUnderTest } from './cuda.js';

const found = cudaUnderTest();
if (found.kind === 'none') {
  // Files load their models before their tests are skipped: let them do it where they can.
  delete process.env.JIT_FLUX_TEST_DEVICE;
  const { reason } = found;
  beforeEach(({ skip }) => skip(reason));
}
