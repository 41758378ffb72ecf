#include "flux/flux_weight_reader.h"

#include <ATen/ops/empty.h>

#include "flux/weight_tensors.h"

namespace jitflux {

at::Tensor FluxWeightReader::rows(const std::vector<std::string>& names,
                                  at::ScalarType dtype) const {
  std::vector<WeightTensor> pieces;
  int64_t height = 0;
  for (const std::string& name : names) {
    for (const WeightTensor& piece : parameters_->pieces(name)) {
      pieces.push_back(piece);
      height += piece.shape[0];
    }
  }
  const WeightTensor& first = pieces[0];
  if (pieces.size() == 1) {
    at::Tensor mapped = mapped_weight(parameters_->file(), first, dtype);
    if (mapped.defined()) return mapped;
  }
  std::vector<int64_t> shape = first.shape;
  shape[0] = height;
  at::Tensor out = at::empty(shape, dtype);
  int64_t row = 0;
  for (const WeightTensor& piece : pieces) {
    out.narrow(0, row, piece.shape[0]).copy_(weight_view(piece));
    release_pages(*parameters_->file(), piece);
    row += piece.shape[0];
  }
  return out;
}

Linear FluxWeightReader::linear(const std::vector<std::string>& modules) const {
  std::vector<std::string> weights;
  std::vector<std::string> biases;
  for (const std::string& module : modules) {
    weights.push_back(module + ".weight");
    biases.push_back(module + ".bias");
  }
  return {rows(weights, dtype_), rows(biases, dtype_)};
}

void FluxWeightReader::release(const std::string& module) const {
  for (const char* parameter : {".weight", ".bias"}) {
    for (const WeightTensor& piece : parameters_->pieces(module + parameter)) {
      release_pages(*parameters_->file(), piece);
    }
  }
}

uint64_t FluxWeightReader::bytes(const std::string& name) const {
  uint64_t sum = 0;
  for (const WeightTensor& piece : parameters_->pieces(name)) sum += piece.nbytes();
  return sum;
}

}  // namespace jitflux
