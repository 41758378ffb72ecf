import { describe, expect, it } from 'vitest';

import { checkCuda, type CudaFacts } from '../../../src/cli/cuda-check.js';

const complete: CudaFacts = {
  library: '/p/build/Cuda/libjit_flux_cuda.so',
  hasDevice: true,
  isChosen: true,
  libtorch: { path: '/lt', cuda: true },
  setupCommand: 'npx jit-flux setup --variant cu130',
};
const device = {
  index: 0,
  name: 'NVIDIA H100 80GB HBM3',
  totalBytes: 85e9,
  freeBytes: 84e9,
  computeCapability: '9.0',
  multiprocessors: 132,
  allocatedBytes: 0,
  reservedBytes: 0,
  peakAllocatedBytes: 0,
};

describe('checkCuda', () => {
  const cases: [Partial<CudaFacts>, string, string, string?][] = [
    [{ library: undefined }, 'skipped', 'CUDA library not built', 'npm run build:cuda'],
    [{ hasDevice: false, libtorch: undefined }, 'ok', 'CUDA library built, no device'],
    [
      { libtorch: { path: '/lt', cuda: false } },
      'warning',
      'CUDA library built, but LibTorch /lt has no CUDA',
      'npx jit-flux setup --variant cu130',
    ],
    [
      { libtorch: undefined },
      'warning',
      'CUDA library built, but there is no LibTorch for it',
      'npx jit-flux setup --variant cu130',
    ],
    [{ isChosen: false }, 'warning', 'CUDA library built, but not in use', 'JIT_FLUX_VARIANT'],
    [
      { report: { error: 'driver too old' } },
      'warning',
      'CUDA library built, but unusable: driver too old',
      'nvidia-smi',
    ],
    [{}, 'ok', 'CUDA library built, device present, not tested'],
    [{ report: { devices: [] } }, 'warning', 'CUDA library built, but CUDA reports no device', 'nvidia-smi'],
    [
      { report: { devices: [device, { ...device, index: 1 }] } },
      'ok',
      '0: NVIDIA H100 80GB HBM3, 85.0 GB (84.0 GB free), compute capability 9.0\n' +
        '1: NVIDIA H100 80GB HBM3, 85.0 GB (84.0 GB free), compute capability 9.0',
    ],
  ];
  it.each(cases)('judges %j as %s: %s', (facts, status, detail, remedy) => {
    const check = checkCuda({ ...complete, ...facts });
    expect(check).toMatchObject({ name: 'CUDA', status, detail });
    if (remedy === undefined) expect(check.remedy).toBeUndefined();
    else expect(check.remedy).toContain(remedy);
  });
});
