#include "layers/rope.h"

#include <ATen/ops/empty.h>

#include <cmath>
#include <vector>

namespace jitflux {

namespace {

// cos and sin of position * theta^(-2j/d) for positions below `count`: [count, d/2] each.
struct AxisTable {
  std::vector<float> cos;
  std::vector<float> sin;
};

AxisTable axis_table(int64_t count, int64_t d, double theta) {
  AxisTable table;
  for (int64_t position = 0; position < count; ++position) {
    for (int64_t j = 0; j < d / 2; ++j) {
      const double exponent = static_cast<double>(2 * j) / static_cast<double>(d);
      const double angle = static_cast<double>(position) / std::pow(theta, exponent);
      table.cos.push_back(static_cast<float>(std::cos(angle)));
      table.sin.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  return table;
}

}  // namespace

RopeTable make_rope_table(const Grid& grid, const std::array<int64_t, 3>& axes, double theta) {
  const int64_t head_dim = axes[0] + axes[1] + axes[2];
  const AxisTable fixed = axis_table(1, axes[0], theta);
  const AxisTable by_row = axis_table(grid.rows, axes[1], theta);
  const AxisTable by_col = axis_table(grid.cols, axes[2], theta);
  RopeTable table{grid, at::empty({grid.tokens(), head_dim}), at::empty({grid.tokens(), head_dim})};
  // `sign` of the first channel of a pair.
  const auto fill = [&](float* out, float sign, const std::vector<float>& first,
                        const std::vector<float>& row, const std::vector<float>& col) {
    const auto pairs = [&](const std::vector<float>& values, int64_t position, int64_t d) {
      for (int64_t j = position * (d / 2); j < (position + 1) * (d / 2); ++j) {
        *out++ = sign * values[j];
        *out++ = values[j];
      }
    };
    for (int64_t r = 0; r < grid.rows; ++r) {
      for (int64_t c = 0; c < grid.cols; ++c) {
        pairs(first, 0, axes[0]);
        pairs(row, r, axes[1]);
        pairs(col, c, axes[2]);
      }
    }
  };
  fill(table.cos.mutable_data_ptr<float>(), 1.0f, fixed.cos, by_row.cos, by_col.cos);
  fill(table.sin.mutable_data_ptr<float>(), -1.0f, fixed.sin, by_row.sin, by_col.sin);
  return table;
}

}  // namespace jitflux
