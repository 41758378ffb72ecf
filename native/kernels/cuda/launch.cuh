// Host side of the kernels: launching, and the choice of the activation type.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>

#include "kernels/cuda/cuda_api.cuh"
#include "kernels/device_kernels.h"

namespace jitflux::kernels::cuda {

// Largest grid; beyond kMaxGridY rows of blocks, kernels stride over what is left.
constexpr int64_t kMaxGridX = 2147483647;
constexpr int64_t kMaxGridY = 65535;

struct Grid {
  int64_t x = 1;
  int64_t y = 1;
};

// Queues kernel(arguments...) on the stream. A kernel that cannot be launched is an error of this
// call: the runtime's "last error" is cleared, because LibTorch would report it as its own.
template <typename... Parameters, typename... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), Grid grid, dim3 block,
            DeviceStream stream, Arguments... arguments) {
  if (grid.x > kMaxGridX || grid.y > kMaxGridY) {
    throw std::runtime_error(std::string(name) + ": too many blocks");
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), 1);
  config.blockDim = block;
  config.stream = static_cast<cudaStream_t>(stream);
  const cudaError_t status =
      cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
  if (status != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    throw std::runtime_error(std::string(name) + ": " + cudaGetErrorString(status));
  }
}

// Operation<T>::run(arguments...) for the activation type T.
template <template <typename> class Operation, typename... Arguments>
void dispatch(Element type, Arguments... arguments) {
  switch (type) {
    case Element::kFloat32:
      return Operation<float>::run(arguments...);
    case Element::kBFloat16:
      return Operation<__nv_bfloat16>::run(arguments...);
    case Element::kFloat16:
      return Operation<__half>::run(arguments...);
  }
  throw std::runtime_error("unknown activation type");
}

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The smallest power of two that is not below n, at most `limit`.
inline int64_t power_of_two(int64_t n, int64_t limit) {
  int64_t power = 1;
  while (power < n && power < limit) power *= 2;
  return power;
}

// Whether 16-byte accesses are possible: the pointers (null ones do not count), and the strides and
// widths, given in elements of `size` bytes.
inline bool is_aligned(std::initializer_list<const void*> pointers) {
  for (const void* pointer : pointers) {
    if (reinterpret_cast<uintptr_t>(pointer) % 16 != 0) return false;
  }
  return true;
}
inline bool is_divisible(std::initializer_list<int64_t> counts, int64_t by) {
  for (const int64_t count : counts) {
    if (count % by != 0) return false;
  }
  return true;
}

}  // namespace jitflux::kernels::cuda
