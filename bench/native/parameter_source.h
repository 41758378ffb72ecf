// Parameters of eager models, read from the weight file that the engine reads.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>

#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

#include "residency/weight_tensors.h"
#include "weights/weight_file.h"

namespace jitflux::bench {

// Parameters of a file; counts what has been taken, as every one must be.
class ParameterSource {
 public:
  ParameterSource(const std::string& path, at::ScalarType dtype)
      : file_(WeightFile::open(path)), dtype_(dtype) {}

  at::Tensor take(const std::string& name) {
    const WeightTensor* tensor = file_->find(name);
    if (tensor == nullptr) throw std::runtime_error(file_->path() + " has no parameter " + name);
    ++taken_;
    // Read, not mapped: eager's parameters are the process's own memory.
    const at::Tensor own = at::empty(tensor->shape, dtype_);
    read_weight(*tensor, own);
    return own;
  }

  void expect_all_taken() const {
    if (taken_ == file_->tensors().size()) return;
    throw std::runtime_error(file_->path() + " has " + std::to_string(file_->tensors().size()) +
                             " parameters, but the architecture " + std::to_string(taken_));
  }

 private:
  std::shared_ptr<const WeightFile> file_;
  at::ScalarType dtype_;
  size_t taken_ = 0;
};

// y = x W^T + b, or without b, as a framework's linear layer computes it.
struct EagerLinear {
  EagerLinear(ParameterSource& from, const std::string& name, bool biased = true)
      : weight(from.take(name + ".weight")) {
    if (biased) bias = from.take(name + ".bias");
  }

  at::Tensor operator()(const at::Tensor& x) const { return at::linear(x, weight, bias); }

  at::Tensor weight;
  std::optional<at::Tensor> bias;
};

}  // namespace jitflux::bench
