// Anchor lists for the JiT operators.
#pragma once

#include <cstdint>

#include "base/token_grid.h"

namespace jitflux::bench {

// Anchors scattered over the grid, and as many other tokens as `added`, for a stage that begins
// with those; each list in ascending order, the same in every run for the same `variant`.
struct TokenChoice {
  TokenLists anchors;
  TokenLists added;
};

TokenChoice choose_tokens(const Grid& grid, int64_t anchors, int64_t added, uint32_t variant = 1);

}  // namespace jitflux::bench
