#include "residency/weight_tensors.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include "weights/mapped_file.h"

namespace jitflux {

namespace {

// Below this, a copy costs nothing, and its alignment does not depend on the file's layout: GEMMs
// may round differently at another alignment, and small models then give the same bits from every
// format.
constexpr size_t kSmallestMapped = size_t{1} << 20;

}  // namespace

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

at::Tensor mapped_weight(const std::shared_ptr<const WeightFile>& file, const WeightTensor& tensor,
                         at::ScalarType dtype) {
  if (tensor.nbytes() < kSmallestMapped || scalar_type(tensor.dtype) != dtype ||
      !tensor.contiguous()) {
    return {};
  }
  return at::from_blob(
      const_cast<std::byte*>(tensor.data), tensor.shape, tensor.strides, [file](void*) {}, dtype);
}

void release_pages(const WeightFile& file, const WeightTensor& tensor) {
  if (!tensor.contiguous()) return;
  for (const MappedFile* mapping : file.mappings()) {
    mapping->release({tensor.data, tensor.nbytes()});
  }
}

at::Tensor WeightLoader::copy(const std::string& name, at::ScalarType dtype) {
  const WeightTensor& tensor = parameters_.at(name);
  at::Tensor out = at::empty(tensor.shape, options_here(dtype));
  if (on_accelerator()) {
    if (uploader_ == nullptr) uploader_ = std::make_unique<DeviceUploader>();
    uploader_->upload(out, tensor);
  } else {
    out.copy_(weight_view(tensor));
  }
  release_pages(*file_, tensor);
  advance(tensor, name);
  return out;
}

at::Tensor WeightLoader::matrix(const std::string& name) {
  const WeightTensor& tensor = parameters_.at(name);
  if (on_accelerator()) return copy(name, dtype_);
  at::Tensor out = mapped_weight(file_, tensor, dtype_);
  if (!out.defined()) return copy(name, dtype_);
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
