// Weights of a linear layer in 8 bits.
#pragma once

#include <ATen/core/Tensor.h>

namespace jitflux {

// Signed bytes and a scale per output channel, in the form in which oneDNN multiplies them with the
// bytes of a LayerInput (layers/layer_rows.h). CPU only.
class QuantizedLinear {
 public:
  QuantizedLinear() = default;
  // weight: [out, in], float32 or bfloat16. Copies it; on the inference thread only.
  explicit QuantizedLinear(const at::Tensor& weight);

  bool defined() const { return weight_.defined(); }

  // (x - kByteOffset) W^T * scale. x: [rows, in] bytes; returns [rows, out] of the given type
  // (float32 or bfloat16), which still lack their rows' scales. The products are exact, the result
  // is rounded once.
  at::Tensor operator()(const at::Tensor& x, at::ScalarType dtype) const;

 private:
  at::Tensor weight_;      // as oneDNN packs it
  at::Tensor scale_;       // [out] float32
  at::Tensor zero_point_;  // [out] int32, zeros
};

}  // namespace jitflux
