// Group norm of feature maps with the channels last, on the CPU or on this thread's accelerator. A
// map is [rows, columns, channels]: each row contiguous, rows possibly apart; float32, bfloat16 or,
// on accelerators, float16.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace jitflux {

// y = x * scale + shift per channel: a norm whose statistics are known.
struct Affine {
  at::Tensor scale;  // [channels] float32
  at::Tensor shift;  // likewise
};

// The norm of x, folded with its weights: scale = weight / sqrt(var + eps), shift = bias - mean *
// scale, mean and variance over a group's channels and all pixels. weight, bias: [channels]
// float32; channels divisible by `groups`. The result does not depend on the number of threads.
// Source: torch's GroupNorm.
Affine group_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                  int64_t groups, double eps);

// dst = silu(affine(src)) for maps of equal shape.
void scale_shift_silu(const at::Tensor& src, const Affine& affine, const at::Tensor& dst);

}  // namespace jitflux
