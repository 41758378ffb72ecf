// PLACEHOLDER, to be deleted at the merge: it stands for the real kernels until they are here.
#include <cuda_runtime.h>

#include <cstdint>

namespace jitflux::kernels::cuda {
namespace {

__global__ void ScaleKernel(float* data, std::int64_t count, float factor) {
  const std::int64_t i = blockIdx.x * static_cast<std::int64_t>(blockDim.x) + threadIdx.x;
  if (i < count) data[i] *= factor;
}

}  // namespace

void PlaceholderScale(float* data, std::int64_t count, float factor, cudaStream_t stream) {
  constexpr int kThreads = 256;
  const auto blocks = static_cast<unsigned>((count + kThreads - 1) / kThreads);
  ScaleKernel<<<blocks, kThreads, 0, stream>>>(data, count, factor);
}

}  // namespace jitflux::kernels::cuda
