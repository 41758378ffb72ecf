#include "runtime/random.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/randn.h>
#include <c10/util/accumulate.h>

#include <cstddef>
#include <cstring>

namespace jitflux {

namespace {

// LibTorch 2.13 draws 16-bit noise in float32 and rounds it; 2.11 draws other numbers (seen on a
// machine with a GPU). Rounding ourselves gives the same noise with both. What LibTorch does with
// the tail of other lengths is left to it: latents have none.
at::Tensor draw(const std::vector<int64_t>& shape, uint64_t seed, at::ScalarType dtype) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  const int64_t count = c10::multiply_integers(shape);
  if (at::isReducedFloatingType(dtype) && (count < 16 || count % 16 == 0)) {
    return at::randn(shape, generator, at::TensorOptions().dtype(at::kFloat)).to(dtype);
  }
  return at::randn(shape, generator, at::TensorOptions().dtype(dtype));
}

}  // namespace

at::Tensor randn(const std::vector<int64_t>& shape, const std::vector<uint64_t>& seeds,
                 at::ScalarType dtype) {
  if (seeds.size() == 1) return draw(shape, seeds[0], dtype);
  at::Tensor out = at::empty(shape, at::TensorOptions().dtype(dtype));
  std::vector<int64_t> image_shape = shape;
  image_shape[0] = 1;
  auto* next = static_cast<std::byte*>(out.mutable_data_ptr());
  for (const uint64_t seed : seeds) {
    const at::Tensor image = draw(image_shape, seed, dtype);
    std::memcpy(next, image.const_data_ptr(), image.nbytes());
    next += image.nbytes();
  }
  return out;
}

}  // namespace jitflux
