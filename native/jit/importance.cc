#include "jit/importance.h"

#include <ATen/ops/empty.h>

#include "kernels/kernels.h"
#include "runtime/device.h"
#include "runtime/parallel.h"

namespace jitflux::jit {

at::Tensor importance(const at::Tensor& velocity, const Grid& grid) {
  const int64_t images = velocity.size(0);
  const int64_t channels = velocity.size(2);
  at::Tensor out = at::empty({images, grid.tokens()}, velocity.options());
  const auto& kernels = kernels::table().jit;
  for (int64_t b = 0; b < images; ++b) {
    const float* v = velocity.const_data_ptr<float>() + b * grid.tokens() * channels;
    float* map = out.mutable_data_ptr<float>() + b * grid.tokens();
    if (const auto* device = current_kernels()) {
      device->local_variance(v, map, grid.rows, grid.cols, channels, current_stream());
      continue;
    }
    parallel_rows(grid.rows, grid.cols * channels * 9, [&](int64_t begin, int64_t end) {
      kernels.local_variance(v, map, begin, end, grid.rows, grid.cols, channels);
    });
  }
  return out;
}

}  // namespace jitflux::jit
