#include "residency/weight_tensors.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>

#include "weights/input_file.h"

namespace jitflux {

namespace {

// Below this, a copy costs nothing, and its alignment does not depend on the file's layout: GEMMs
// may round differently at another alignment, and small models then give the same bits from every
// format.
constexpr size_t kSmallestMapped = size_t{1} << 20;

// What is converted at once: small enough for the second-level caches of a few cores.
constexpr int64_t kChunkBytes = int64_t{4} << 20;

// What a thread reads at least: copying from the page cache is worth several threads, a disk wants
// long requests.
constexpr int64_t kReadBytes = int64_t{8} << 20;

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

void read_weight(const WeightTensor& tensor, const at::Tensor& out) {
  const at::ScalarType type = scalar_type(tensor.dtype);
  const int64_t count = tensor.numel();
  const auto size = static_cast<int64_t>(element_size(tensor.dtype));
  if (type == out.scalar_type()) {
    auto* to = static_cast<std::byte*>(out.mutable_data_ptr());
    const int64_t piece = tensor.contiguous() ? kReadBytes / size : std::max<int64_t>(count, 1);
    at::parallel_for(0, count, piece, [&](int64_t begin, int64_t end) {
      read_elements(tensor, static_cast<uint64_t>(begin), static_cast<uint64_t>(end - begin),
                    to + begin * size);
    });
    return;
  }
  const int64_t step = tensor.contiguous() ? std::min(count, kChunkBytes / size) : count;
  const at::Tensor chunk = at::empty({step}, type);
  const at::Tensor to = out.view({-1});
  for (int64_t first = 0; first < count; first += step) {
    const int64_t n = std::min(step, count - first);
    read_elements(tensor, static_cast<uint64_t>(first), static_cast<uint64_t>(n),
                  static_cast<std::byte*>(chunk.mutable_data_ptr()));
    to.narrow(0, first, n).copy_(chunk.narrow(0, 0, n));
  }
}

at::Tensor mapped_weight(const std::shared_ptr<const WeightFile>& file, const WeightTensor& tensor,
                         at::ScalarType dtype) {
  if (!file->may_map() || tensor.nbytes() < kSmallestMapped || scalar_type(tensor.dtype) != dtype ||
      !tensor.contiguous() ||
      // Left by its writer where its element type must not be read from.
      tensor.offset % element_size(tensor.dtype) != 0) {
    return {};
  }
  return at::from_blob(
      const_cast<std::byte*>(tensor.file->map() + tensor.offset), tensor.shape, tensor.strides,
      [file](void*) {}, dtype);
}

void release_pages(const WeightTensor& tensor) {
  if (tensor.contiguous()) tensor.file->release(tensor.offset, tensor.nbytes());
}

at::Tensor WeightLoader::copy(const std::string& name, at::ScalarType dtype) {
  const WeightTensor& tensor = parameters_.at(name);
  at::Tensor out = at::empty(tensor.shape, options_here(dtype));
  if (on_accelerator()) {
    if (uploader_ == nullptr) uploader_ = std::make_unique<DeviceUploader>();
    uploader_->upload(out, tensor);
  } else {
    read_weight(tensor, out);
  }
  advance(tensor, name);
  return out;
}

at::Tensor WeightLoader::matrix(const std::string& name) {
  const WeightTensor& tensor = parameters_.at(name);
  if (on_accelerator()) return copy(name, dtype_);
  at::Tensor out = mapped_weight(file_, tensor, dtype_);
  if (!out.defined()) return copy(name, dtype_);
  mapped_ = true;
  advance(tensor, name);
  return out;
}

Linear WeightLoader::linear(const std::string& module) {
  Linear linear;
  linear.weight = matrix(module + ".weight");
  if (parameters_.find(module + ".bias") != nullptr) linear.bias = copy(module + ".bias", dtype_);
  return linear;
}

QuantizedLinear WeightLoader::quantized(const std::string& module) {
  return QuantizedLinear(copy(module + ".weight", dtype_));
}

void WeightLoader::advance(const WeightTensor& tensor, const std::string& name) {
  loaded_ += tensor.nbytes();
  job_.checkpoint();
  if (job_.progress) job_.progress(loaded_, total_, name);
}

}  // namespace jitflux
