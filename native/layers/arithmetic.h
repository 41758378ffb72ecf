// Arithmetic on whole tensors, for samplers that are written in JavaScript. On the tensor's own
// device.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace jitflux {

// scale * values + other_scale * other in a new tensor of the type of `values`, rounded once:
// computed in float32, of float64 in float64. Both have one shape and are of floating types;
// `other` may be undefined.
at::Tensor linear_combination(const at::Tensor& values, double scale, const at::Tensor& other,
                              double other_scale);

// What the numbers of an image are reduced to. kNorm: the square root of the sum of squares.
enum class Reduction { kSum, kNorm, kLeast, kGreatest };

// One number per image (first dimension), summed in float64. An image holds at least one number.
std::vector<double> reduce_images(const at::Tensor& values, Reduction reduction);

}  // namespace jitflux
