// Whether values are numbers: what a damaged weight or an overflow leaves are none.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace jitflux {

// The images (first dimension) of a tensor that hold NaN or infinities, in ascending order. None of
// a tensor of integers, or without dimensions.
std::vector<int32_t> not_finite_images(const at::Tensor& values);

// Throws kNotFinite (details: what, image, the first) if any image of a tensor does. `what`: the
// tensor's name in a sentence, "latents".
void expect_finite(const at::Tensor& values, const char* what);

}  // namespace jitflux
