#include "flux/weight_tensors.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

namespace jitflux {

at::ScalarType scalar_type(WeightDType dtype) {
  switch (dtype) {
    case WeightDType::kFloat32:
      return at::kFloat;
    case WeightDType::kBFloat16:
      return at::kBFloat16;
    case WeightDType::kFloat16:
      return at::kHalf;
    case WeightDType::kFloat64:
      return at::kDouble;
    default:
      throw Error(error_code::kWeightsMismatch,
                  std::string("Parameters must be floating point, not ") + dtype_name(dtype));
  }
}

at::Tensor weight_view(const WeightTensor& tensor) {
  return at::from_blob(const_cast<std::byte*>(tensor.data), tensor.shape, tensor.strides,
                       scalar_type(tensor.dtype));
}

at::Tensor WeightLoader::copy(const std::string& name, at::ScalarType dtype) {
  const WeightTensor& tensor = parameters_.at(name);
  at::Tensor out = at::empty(tensor.shape, dtype);
  out.copy_(weight_view(tensor));
  advance(tensor, name);
  return out;
}

at::Tensor WeightLoader::matrix(const std::string& name) {
  const WeightTensor& tensor = parameters_.at(name);
  if (scalar_type(tensor.dtype) != dtype_ || !tensor.contiguous()) return copy(name, dtype_);
  at::Tensor out = at::from_blob(
      const_cast<std::byte*>(tensor.data), tensor.shape, tensor.strides, [file = file_](void*) {},
      dtype_);
  advance(tensor, name);
  return out;
}

Linear WeightLoader::linear(const std::string& module) {
  Linear linear;
  linear.weight = matrix(module + ".weight");
  if (parameters_.find(module + ".bias") != nullptr) linear.bias = copy(module + ".bias", dtype_);
  return linear;
}

void WeightLoader::advance(const WeightTensor& tensor, const std::string& name) {
  loaded_ += tensor.nbytes();
  job_.checkpoint();
  if (job_.progress) job_.progress(loaded_, total_, name);
}

}  // namespace jitflux
