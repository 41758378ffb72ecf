// PLACEHOLDER, to be deleted at the merge: the real host side defines jit_flux_cuda_backend. It
// uses something of every library that the real one needs, so that the build shows how they are
// linked.
#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAStream.h>

#include <cstdint>

namespace jitflux::kernels::cuda {
void PlaceholderScale(float* data, std::int64_t count, float factor, cudaStream_t stream);
}

extern "C" __attribute__((visibility("default"))) void* jit_flux_cuda_backend() {
  if (c10::cuda::device_count() > 0) {
    at::Tensor tensor = at::ones({4}, at::device(at::kCUDA));
    jitflux::kernels::cuda::PlaceholderScale(tensor.data_ptr<float>(), tensor.numel(), 2.0F,
                                             at::cuda::getCurrentCUDAStream());
    cudaStreamSynchronize(at::cuda::getCurrentCUDAStream());
    (void)at::cuda::getCurrentCUDABlasHandle();
  }
  return nullptr;
}
