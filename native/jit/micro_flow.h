// DMF: tokens that become anchors move towards a target between two stages.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "base/token_grid.h"
#include "jit/lifter.h"

namespace jitflux::jit {

// (1 - sigma) * lift(clean at anchors) + sigma * noise at the new tokens: [B, K, C]. clean, noise:
// [B, N, C], float32, contiguous, on current_device().
at::Tensor micro_flow_target(const at::Tensor& clean, const at::Tensor& noise,
                             const TokenLists& anchors, const TokenLists& new_tokens, double sigma,
                             const Grid& grid, LifterCache& cache);

// Moves the new tokens of latents [B, N, C] towards target [B, K, C], in place: once per weight, by
// that share of the way that is left. A weight of 1 lands on the target exactly.
void micro_flow(at::Tensor& latents, const at::Tensor& target, const TokenLists& new_tokens,
                const std::vector<double>& weights);

}  // namespace jitflux::jit
