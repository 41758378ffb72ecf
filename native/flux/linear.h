// Linear layers through oneDNN.
#pragma once

#include <ATen/core/Tensor.h>

namespace jitflux {

// Applied to a linear layer's output in the same pass.
enum class PostOp { kNone, kGeluTanh };

// y = x W^T + b.
struct Linear {
  at::Tensor weight;  // [out, in]
  at::Tensor bias;    // [out], or undefined

  // x: [..., in], float32 or bfloat16 as the weight; returns [..., out].
  //
  // Through oneDNN, not at::linear: on CPUs that are not Intel's, at::linear's MKL runs float32
  // with AVX2 kernels (measured on an AMD EPYC with AVX-512, 4608 x 3072 x 3072 on two threads: 186
  // against 381 GFLOP/s; bfloat16 767 against 782). Plain weights are reordered in every call,
  // which costs a few percent; PackedLinear (packed_linear.h) passes reordered ones.
  at::Tensor operator()(const at::Tensor& x, PostOp post = PostOp::kNone) const;
};

}  // namespace jitflux
