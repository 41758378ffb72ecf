#include "residency/flux_weight_reader.h"

#include <ATen/ops/empty.h>

#include "residency/weight_tensors.h"
#include "runtime/memory_arena.h"

namespace jitflux {

namespace {

std::vector<std::string> parameters_of(const std::vector<std::string>& modules,
                                       const char* parameter) {
  std::vector<std::string> names;
  for (const std::string& module : modules) names.push_back(module + parameter);
  return names;
}

std::vector<int64_t> stacked_shape(const std::vector<WeightTensor>& pieces) {
  std::vector<int64_t> shape = pieces[0].shape;
  shape[0] = 0;
  for (const WeightTensor& piece : pieces) shape[0] += piece.shape[0];
  return shape;
}

// Calls copy(rows of `out`, piece) for each of the pieces, which it holds one below the other.
template <typename F>
void stack(const std::vector<WeightTensor>& pieces, const at::Tensor& out, const F& copy) {
  int64_t row = 0;
  for (const WeightTensor& piece : pieces) {
    copy(out.narrow(0, row, piece.shape[0]), piece);
    row += piece.shape[0];
  }
}

}  // namespace

std::vector<WeightTensor> FluxWeightReader::pieces(const std::vector<std::string>& names) const {
  std::vector<WeightTensor> result;
  for (const std::string& name : names) {
    for (const WeightTensor& piece : parameters_->pieces(name)) result.push_back(piece);
  }
  return result;
}

at::Tensor FluxWeightReader::rows(const std::vector<std::string>& names, at::ScalarType dtype,
                                  bool may_map) const {
  const std::vector<WeightTensor> found = pieces(names);
  const bool device = on_accelerator();
  if (found.size() == 1 && !device && may_map) {
    at::Tensor mapped = mapped_weight(parameters_->file(), found[0], dtype);
    if (mapped.defined()) return mapped;
  }
  at::Tensor out = at::empty(stacked_shape(found), options_here(dtype));
  if (device && uploader_ == nullptr) uploader_ = std::make_unique<DeviceUploader>();
  stack(found, out, [&](const at::Tensor& part, const WeightTensor& piece) {
    if (device) {
      uploader_->upload(part, piece);
    } else {
      read_weight(piece, part);
    }
  });
  return out;
}

Linear FluxWeightReader::linear(const std::vector<std::string>& modules, bool may_map) const {
  Linear linear;
  linear.weight = rows(parameters_of(modules, ".weight"), dtype_, may_map);
  // It stays whatever becomes of the weight, and must not keep a large block of an arena.
  const MemoryArena::Scope scope(nullptr);
  linear.bias = rows(parameters_of(modules, ".bias"), dtype_, may_map);
  return linear;
}

std::vector<int64_t> FluxWeightReader::linear_shape(const std::vector<std::string>& modules) const {
  return stacked_shape(pieces(parameters_of(modules, ".weight")));
}

void FluxWeightReader::read_linear(const std::vector<std::string>& modules,
                                   const at::Tensor& weight, const at::Tensor& bias) const {
  const auto copy = [](const at::Tensor& part, const WeightTensor& piece) {
    read_weight(piece, part);
  };
  stack(pieces(parameters_of(modules, ".weight")), weight, copy);
  stack(pieces(parameters_of(modules, ".bias")), bias, copy);
}

void FluxWeightReader::release(const std::string& module) const {
  for (const char* parameter : {".weight", ".bias"}) {
    for (const WeightTensor& piece : parameters_->pieces(module + parameter)) {
      release_pages(piece);
    }
  }
}

uint64_t FluxWeightReader::bytes(const std::string& name) const {
  uint64_t sum = 0;
  for (const WeightTensor& piece : parameters_->pieces(name)) sum += piece.nbytes();
  return sum;
}

}  // namespace jitflux
