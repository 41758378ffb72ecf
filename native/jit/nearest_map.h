// The exact nearest-anchor map of a token grid, which the lifter interpolates with. No LibTorch
// here.
#pragma once

#include <cstdint>
#include <vector>

#include "base/token_grid.h"

namespace jitflux::jit {

// For every token of the grid the position, in `anchors`, of its nearest anchor by Euclidean
// distance on the grid; among equally near anchors the one earliest in the list. Exact, in
// O(tokens). `anchors` must have passed check_token_lists.
std::vector<int32_t> nearest_anchor_map(const int32_t* anchors, int64_t count, const Grid& grid);

// For every token its position in `anchors`, or -1.
std::vector<int32_t> anchor_positions(const int32_t* anchors, int64_t count, int64_t tokens);

}  // namespace jitflux::jit
