// What libjit_flux_cuda.so exports.
#include "cuda/backend.h"
#include "runtime/device.h"

extern "C" __attribute__((visibility("default"))) const jitflux::DeviceLibrary*
jit_flux_cuda_backend() {
  static constexpr jitflux::DeviceLibrary library = {JIT_FLUX_VERSION, JIT_FLUX_LIBTORCH_VERSION,
                                                     jitflux::cuda::backend};
  return &library;
}
