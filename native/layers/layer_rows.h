// Token rows between a transformer's layers, in the forms in which layers take and return them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "kernels/kernels.h"

namespace jitflux {

constexpr int32_t kByteOffset = 128;   // of the bytes
constexpr float kByteLevels = 127.0f;  // largest |q|

// Token rows as a layer takes them: of the model's type or, for kInt8, bytes 128 + q that stand for
// q * row_scale.
struct LayerInput {
  at::Tensor values;     // [rows, in]
  at::Tensor row_scale;  // [rows] float32, or undefined

  LayerInput rows(int64_t begin, int64_t count) const;
};

// A layer's output, of the model's type. Integer products still want their row's scale and the
// bias, which the kernel that reads them applies (rescale()).
struct LayerOutput {
  at::Tensor values;     // [rows, out]
  at::Tensor row_scale;  // [rows] float32, or undefined
  at::Tensor bias;       // [out] float32, if row_scale is defined

  LayerOutput rows(int64_t begin, int64_t count) const;
  // For the columns from `column` on, of the rows from `row` on.
  kernels::Rescale rescale(int64_t row = 0, int64_t column = 0) const;
};

}  // namespace jitflux
