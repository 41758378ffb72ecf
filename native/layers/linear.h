// Linear layers: oneDNN on the CPU, cuBLASLt (through ATen) on CUDA devices.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace jitflux {

// Whether oneDNN multiplies bfloat16 on this CPU: with AVX2 alone it does not.
bool multiplies_bfloat16();

// oneDNN's blocking of weights that it packs depends on the number of rows it is told to expect. A
// fixed one: what a layer computes must not depend on which request came first.
constexpr int64_t kExpectedRows = 2048;

// Applied to a linear layer's output in the same pass.
enum class PostOp { kNone, kGeluTanh };

// y = x W^T + b.
struct Linear {
  at::Tensor weight;  // [out, in]
  at::Tensor bias;    // [out], or undefined

  // x: [..., in], of the weight's type and on its device; returns [..., out]. On CUDA devices bias
  // and GELU are applied to the float32 sums, in the matrix product's epilogue.
  //
  // CPU: through oneDNN, not at::linear: on CPUs that are not Intel's, at::linear's MKL runs
  // float32 with AVX2 kernels (measured on an AMD EPYC with AVX-512, 4608 x 3072 x 3072 on two
  // threads: 186 against 381 GFLOP/s; bfloat16 767 against 782). Plain weights are reordered in
  // every call, which costs a few percent; PackedLinear (packed_linear.h) passes reordered ones.
  // Without bfloat16 products it computes in float32 and rounds the result.
  at::Tensor operator()(const at::Tensor& x, PostOp post = PostOp::kNone) const;

  // The same into `out`, contiguous [rows, out], of x: [rows, in].
  void into(const at::Tensor& out, const at::Tensor& x, PostOp post = PostOp::kNone) const;
};

}  // namespace jitflux
