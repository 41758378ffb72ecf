#include "layers/arithmetic.h"

#include <ATen/ops/linalg_vector_norm.h>

namespace jitflux {

at::Tensor linear_combination(const at::Tensor& values, double scale, const at::Tensor& other,
                              double other_scale) {
  const at::ScalarType type = values.scalar_type();
  const at::ScalarType wide = type == at::kDouble ? at::kDouble : at::kFloat;
  at::Tensor result = values.to(wide).mul(scale);
  if (other.defined()) result.add_(other.to(wide), other_scale);
  return result.to(type);
}

std::vector<double> reduce_images(const at::Tensor& values, Reduction reduction) {
  const int64_t count = values.dim() < 1 ? 1 : values.size(0);
  const at::Tensor images = values.reshape({count, values.numel() / count});
  at::Tensor reduced;
  switch (reduction) {
    case Reduction::kSum:
      reduced = images.sum({1}, /*keepdim=*/false, at::kDouble);
      break;
    case Reduction::kNorm:
      // Not in the type of the numbers, whose squares may be too large for it.
      reduced =
          at::linalg_vector_norm(images, 2, at::IntArrayRef{1}, /*keepdim=*/false, at::kDouble);
      break;
    case Reduction::kLeast:
      reduced = images.amin({1});
      break;
    case Reduction::kGreatest:
      reduced = images.amax({1});
      break;
  }
  reduced = reduced.to(at::Device(at::kCPU), at::kDouble).contiguous();
  const auto* data = reduced.const_data_ptr<double>();
  return {data, data + reduced.numel()};
}

}  // namespace jitflux
