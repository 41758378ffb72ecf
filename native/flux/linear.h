#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/linear.h>

namespace jitflux {

// y = x W^T + b.
struct Linear {
  at::Tensor weight;  // [out, in]
  at::Tensor bias;    // [out], or undefined

  at::Tensor operator()(const at::Tensor& x) const {
    return bias.defined() ? at::linear(x, weight, bias) : at::linear(x, weight);
  }
};

}  // namespace jitflux
