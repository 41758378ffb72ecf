#include "runtime/random.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/randn.h>

#include <cstddef>
#include <cstring>

namespace jitflux {

at::Tensor randn(const std::vector<int64_t>& shape, const std::vector<uint64_t>& seeds,
                 at::ScalarType dtype) {
  const at::TensorOptions options = at::TensorOptions().dtype(dtype);
  if (seeds.size() == 1) {
    at::Generator generator = at::detail::createCPUGenerator(seeds[0]);
    return at::randn(shape, generator, options);
  }
  at::Tensor out = at::empty(shape, options);
  std::vector<int64_t> image_shape = shape;
  image_shape[0] = 1;
  auto* next = static_cast<std::byte*>(out.mutable_data_ptr());
  for (const uint64_t seed : seeds) {
    at::Generator generator = at::detail::createCPUGenerator(seed);
    const at::Tensor image = at::randn(image_shape, generator, options);
    std::memcpy(next, image.const_data_ptr(), image.nbytes());
    next += image.nbytes();
  }
  return out;
}

}  // namespace jitflux
