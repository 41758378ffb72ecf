// CUDA's own declarations. The only place that includes them, so that test/cuda/emulation can take
// their place: there the same sources are compiled for the CPU.
#pragma once

#if defined(JIT_FLUX_CUDA_EMULATION)
#include "cuda_emulation.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#endif
