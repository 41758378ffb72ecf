// ITA's importance map: where the velocity varies most among neighbours.
#pragma once

#include <ATen/core/Tensor.h>

#include "base/token_grid.h"

namespace jitflux::jit {

// For every token of a velocity field [B, N, C] the variance of its zero-padded 3 x 3
// neighbourhood, averaged over the channels: [B, N]. float32, contiguous, on current_device().
at::Tensor importance(const at::Tensor& velocity, const Grid& grid);

}  // namespace jitflux::jit
