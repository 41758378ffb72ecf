#include "jit/lifter.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/counters.h"
#include "jit/nearest_map.h"
#include "kernels/kernels.h"
#include "kernels/reflect.h"
#include "runtime/device.h"
#include "runtime/parallel.h"

namespace jitflux::jit {

namespace {

// Lifts one image's v [M, C] into full [N, C]; also latents += d_sigma * full unless latents is
// null. `blurred`: blur_scratch, on an accelerator.
void lift_image(const Lifter& lifter, const float* v, float* full, float* latents, float d_sigma,
                int64_t channels, const at::Tensor& blurred) {
  if (const auto* device = current_kernels()) {
    device->lift_step(lifter.on_device(v, channels, blurred), full, latents, d_sigma,
                      current_stream());
    return;
  }
  const auto& kernels = kernels::table().jit;
  const Grid& grid = lifter.grid;
  const int64_t taps = 2 * lifter.radius + 1;
  const int64_t width = grid.cols * channels;
  const auto* nearest = lifter.nearest.const_data_ptr<int32_t>();
  const auto* positions = lifter.positions.const_data_ptr<int32_t>();
  const auto* weights = lifter.weights.const_data_ptr<float>();
  parallel_rows(grid.rows, 2 * width * taps, [&](int64_t begin, int64_t end) {
    // Row y blurred along its columns lies in slot y % taps: the result's next row needs the latest
    // `taps` of them, which stay in the cache.
    std::vector<float> blurred(static_cast<size_t>(taps * width));
    std::vector<const float*> rows(static_cast<size_t>(taps));
    const auto slot = [&](int64_t y) { return blurred.data() + y % taps * width; };
    int64_t next = std::max<int64_t>(0, begin - lifter.radius);
    for (int64_t r = begin; r < end; ++r) {
      for (; next <= std::min(grid.rows - 1, r + lifter.radius); ++next) {
        kernels.blur_row(v, nearest + next * grid.cols, weights, lifter.radius, slot(next),
                         grid.cols, channels);
      }
      for (int64_t j = 0; j < taps; ++j) {
        rows[j] = slot(kernels::reflect(r + j - lifter.radius, grid.rows));
      }
      const int64_t at = r * grid.cols;
      kernels.lift_row({.rows = rows.data(),
                        .v = v,
                        .positions = positions + at,
                        .weight = weights,
                        .taps = taps,
                        .full = full + at * channels,
                        .latents = latents == nullptr ? nullptr : latents + at * channels,
                        .d_sigma = d_sigma,
                        .cols = grid.cols,
                        .channels = channels});
    }
  });
}

// `latents` null: lifts only.
at::Tensor lift_images(const at::Tensor& v, const TokenLists& anchors, const Grid& grid,
                       LifterCache& cache, float* latents, double d_sigma) {
  count(Counter::kLiftStep);
  const int64_t images = v.size(0);
  const int64_t count = v.size(1);
  const int64_t channels = v.size(2);
  at::Tensor full = at::empty({images, grid.tokens(), channels}, v.options());
  const int64_t stride = grid.tokens() * channels;
  // Everything that may fail comes before the first image is changed.
  const at::Tensor blurred = on_accelerator() ? blur_scratch(grid, channels) : at::Tensor();
  std::vector<std::shared_ptr<const Lifter>> lifters;
  for (int64_t b = 0; b < images; ++b) lifters.push_back(cache.get(anchors.of(b), count, grid));
  for (int64_t b = 0; b < images; ++b) {
    const auto& lifter = lifters[b];
    lift_image(*lifter, v.const_data_ptr<float>() + b * count * channels,
               full.mutable_data_ptr<float>() + b * stride,
               latents == nullptr ? nullptr : latents + b * stride, static_cast<float>(d_sigma),
               channels, blurred);
  }
  return full;
}

}  // namespace

Lifter::Lifter(const int32_t* list, int64_t count, const Grid& on)
    : grid(on), anchors(list, list + count) {
  const at::TensorOptions options = options_here(at::kInt);
  nearest = at::empty({on.tokens()}, options);
  positions = at::empty({on.tokens()}, options);
  auto* nearest_data = nearest.mutable_data_ptr<int32_t>();
  auto* positions_data = positions.mutable_data_ptr<int32_t>();
  if (const auto* device = current_kernels()) {
    const at::Tensor there = on_current_device(anchors);
    const at::Tensor scratch = at::empty({on.tokens()}, options.dtype(at::kLong));
    device->anchor_positions(there.const_data_ptr<int32_t>(), count, positions_data, on.tokens(),
                             current_stream());
    device->nearest_anchor_map(positions_data, nearest_data, scratch.mutable_data_ptr(), on.rows,
                               on.cols, current_stream());
  } else {
    std::ranges::copy(nearest_anchor_map(list, count, on), nearest_data);
    std::ranges::copy(anchor_positions(list, count, on.tokens()), positions_data);
  }
  // The released code's blur: sigma from the anchor density, kernel of 2 ceil(3 sigma) + 1 taps.
  const double density = static_cast<double>(count) / static_cast<double>(on.tokens());
  const double sigma = std::clamp(0.4 / std::sqrt(density), 1.0, 10.0);
  radius = static_cast<int64_t>(std::ceil(3.0 * sigma));
  double sum = 0.0;
  std::vector<double> exact;
  for (int64_t j = -radius; j <= radius; ++j) {
    const double x = static_cast<double>(j) / sigma;
    exact.push_back(std::exp(-0.5 * x * x));
    sum += exact.back();
  }
  weights = at::empty({2 * radius + 1}, at::kFloat);
  for (size_t i = 0; i < exact.size(); ++i) {
    weights.mutable_data_ptr<float>()[i] = static_cast<float>(exact[i] / sum);
  }
  weights = weights.to(current_device());
}

kernels::device::Lift Lifter::on_device(const float* v, int64_t channels,
                                        const at::Tensor& blurred) const {
  return {.v = v,
          .nearest = nearest.const_data_ptr<int32_t>(),
          .positions = positions.const_data_ptr<int32_t>(),
          .weights = weights.const_data_ptr<float>(),
          .radius = radius,
          .blurred = blurred.mutable_data_ptr<float>(),
          .rows = grid.rows,
          .cols = grid.cols,
          .channels = channels};
}

std::shared_ptr<const Lifter> LifterCache::get(const int32_t* anchors, int64_t count,
                                               const Grid& grid) {
  for (auto it = lifters_.rbegin(); it != lifters_.rend(); ++it) {
    const Lifter& l = **it;
    if (l.grid.rows == grid.rows && l.grid.cols == grid.cols &&
        static_cast<int64_t>(l.anchors.size()) == count &&
        std::equal(l.anchors.begin(), l.anchors.end(), anchors)) {
      return *it;
    }
  }
  if (lifters_.size() == kCapacity) lifters_.erase(lifters_.begin());
  lifters_.push_back(std::make_shared<const Lifter>(anchors, count, grid));
  return lifters_.back();
}

at::Tensor lift(const at::Tensor& v, const TokenLists& anchors, const Grid& grid,
                LifterCache& cache) {
  return lift_images(v, anchors, grid, cache, nullptr, 0.0);
}

at::Tensor lift_and_step(at::Tensor& latents, const at::Tensor& v, const TokenLists& anchors,
                         const Grid& grid, double d_sigma, LifterCache& cache) {
  return lift_images(v, anchors, grid, cache, latents.mutable_data_ptr<float>(), d_sigma);
}

at::Tensor blur_scratch(const Grid& grid, int64_t channels) {
  return at::empty({grid.tokens(), channels}, options_here(at::kFloat));
}

}  // namespace jitflux::jit
