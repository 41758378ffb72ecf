// Giving CUDA resources back from destructors.
#pragma once

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>

namespace jitflux::cuda {

// Runs `release` with `device` current. Whatever fails is dropped: the resource goes with its
// context, and where the driver has already been taken down there is nothing left to release. The
// guard keeps a thread that has never used CUDA from making a context on device 0.
template <typename Release>
void release_on(c10::DeviceIndex device, const Release& release) noexcept {
  try {
    const c10::cuda::CUDAGuard guard(device);
    release();
  } catch (...) {
    C10_CUDA_CLEAR_ERROR();
  }
}

}  // namespace jitflux::cuda
