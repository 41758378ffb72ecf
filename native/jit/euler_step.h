// One Euler step of the flow, from a velocity at the anchors or of the whole grid.
#pragma once

#include <ATen/core/Tensor.h>

#include "base/token_grid.h"
#include "jit/lifter.h"

namespace jitflux::jit {

// latents [B, N, C] += d_sigma * lift(v), in place; returns lift(v) [B, N, C]. v: [B, M, C] at the
// anchors. `anchors` empty: v [B, N, C] is the full field and is returned as it is. float32,
// contiguous, on current_device(); d_sigma is negative on the way from noise to image.
at::Tensor euler_step(at::Tensor& latents, const at::Tensor& v, const TokenLists& anchors,
                      const Grid& grid, double d_sigma, LifterCache& cache);

// The clean latents that a velocity points at: latents - sigma * velocity, both [B, N, C] float32.
at::Tensor predict_clean(const at::Tensor& latents, const at::Tensor& velocity, double sigma);

}  // namespace jitflux::jit
