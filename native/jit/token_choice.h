// ITA's choice of the tokens that become anchors in the next stage.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "base/token_grid.h"

namespace jitflux::jit {

// Per image of a velocity field [B, N, C] (float32, contiguous, on current_device()) the `count`
// tokens of highest importance that are no anchors, highest first, equal ones by lower token; NaN
// counts as lowest. [B * count], on the host. `count` is at most the number of such tokens.
std::vector<int32_t> select_tokens(const at::Tensor& velocity, const TokenLists& anchors,
                                   int64_t count, const Grid& grid);

}  // namespace jitflux::jit
