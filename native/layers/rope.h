// Rotary position embedding of FLUX: three axes (0, row, column); text tokens and the first axis
// sit at position 0 and are not rotated. Angles in float64, tables in float32 (as diffusers).
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>

#include "base/token_grid.h"

namespace jitflux {

struct RopeTable {
  Grid grid;
  at::Tensor cos;  // [rows*cols, head_dim] float32, the same value for both channels of a pair
  at::Tensor sin;  // likewise, negative for the first channel of a pair
};

// Tables of every token of the grid; token i lies at row i / cols, column i % cols.
RopeTable make_rope_table(const Grid& grid, const std::array<int64_t, 3>& axes,
                          double theta = 10000.0);

}  // namespace jitflux
