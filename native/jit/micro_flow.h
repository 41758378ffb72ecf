// DMF: tokens that become anchors move towards a target between two stages.
#pragma once

#include <ATen/core/Tensor.h>

#include "base/token_grid.h"
#include "jit/lifter.h"

namespace jitflux::jit {

// (1 - sigma) * lift(clean at anchors) + sigma * noise at the new tokens: [B, K, C]. clean, noise:
// [B, N, C], float32, contiguous, on current_device().
at::Tensor micro_flow_target(const at::Tensor& clean, const at::Tensor& noise,
                             const TokenLists& anchors, const TokenLists& new_tokens, double sigma,
                             const Grid& grid, LifterCache& cache);

// Moves the new tokens of latents [B, N, C] a share `weight` of the way to target [B, K, C], in
// place.
void blend(at::Tensor& latents, const at::Tensor& target, const TokenLists& new_tokens,
           double weight);

}  // namespace jitflux::jit
