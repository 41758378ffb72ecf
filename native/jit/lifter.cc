#include "jit/lifter.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "base/counters.h"
#include "jit/nearest_map.h"
#include "kernels/kernels.h"
#include "kernels/reflect.h"
#include "runtime/device.h"
#include "runtime/parallel.h"

namespace jitflux::jit {

namespace {

// What the grid's rows need of blur_row's field, kept in the cache: row y in slot y % taps.
class BlurredRows {
 public:
  BlurredRows(const Lifter& lifter, const float* v, int64_t channels)
      : lifter_(lifter), v_(v), channels_(channels), taps_(2 * lifter.radius + 1) {
    slots_.resize(static_cast<size_t>(taps_ * lifter.grid.cols * channels));
    rows_.resize(static_cast<size_t>(taps_));
  }

  // The lifter's row r, with nowhere to write to yet. Valid until the next call, of a larger r.
  kernels::LiftRow at(int64_t r) {
    const Grid& grid = lifter_.grid;
    next_ = std::max(next_, r - lifter_.radius);
    for (; next_ <= std::min(grid.rows - 1, r + lifter_.radius); ++next_) {
      kernels::table().jit.blur_row(v_,
                                    lifter_.nearest.const_data_ptr<int32_t>() + next_ * grid.cols,
                                    weights(), lifter_.radius, slot(next_), grid.cols, channels_);
    }
    for (int64_t j = 0; j < taps_; ++j) {
      rows_[j] = slot(kernels::reflect(r + j - lifter_.radius, grid.rows));
    }
    return {.rows = rows_.data(),
            .v = v_,
            .positions = lifter_.positions.const_data_ptr<int32_t>() + r * grid.cols,
            .weight = weights(),
            .taps = taps_,
            .full = nullptr,
            .cols = grid.cols,
            .channels = channels_};
  }

  // Of one row, as parallel_rows takes it.
  static int64_t cost(const Lifter& lifter, int64_t channels) {
    return 2 * lifter.grid.cols * channels * (2 * lifter.radius + 1);
  }

 private:
  float* slot(int64_t y) { return slots_.data() + y % taps_ * lifter_.grid.cols * channels_; }
  const float* weights() const { return lifter_.weights.const_data_ptr<float>(); }

  const Lifter& lifter_;
  const float* v_;
  int64_t channels_;
  int64_t taps_;
  int64_t next_ = 0;  // the first row that has not been blurred
  std::vector<float> slots_;
  std::vector<const float*> rows_;
};

// Lifts one image's v [M, C] into full [N, C]; also latents += d_sigma * full unless latents is
// null. `blurred`: blur_scratch, on an accelerator.
void lift_image(const Lifter& lifter, const float* v, float* full, float* latents, float d_sigma,
                int64_t channels, const at::Tensor& blurred) {
  if (const auto* device = current_kernels()) {
    device->lift_step(lifter.on_device(v, channels, blurred), full, latents, d_sigma,
                      current_stream());
    return;
  }
  const int64_t width = lifter.grid.cols * channels;
  parallel_rows(lifter.grid.rows, BlurredRows::cost(lifter, channels),
                [&](int64_t begin, int64_t end) {
                  BlurredRows rows(lifter, v, channels);
                  for (int64_t r = begin; r < end; ++r) {
                    kernels::LiftRow row = rows.at(r);
                    row.full = full + r * width;
                    row.latents = latents == nullptr ? nullptr : latents + r * width;
                    row.d_sigma = d_sigma;
                    kernels::table().jit.lift_row(row);
                  }
                });
}

// Calls visit(position in `tokens`, the lifted v of this token) for every one of `count` tokens of
// one image, grid row by grid row, on several threads; on the CPU.
void lift_image_at(const Lifter& lifter, const float* v, const int32_t* tokens, int64_t count,
                   int64_t channels, const std::function<void(int64_t, const float*)>& visit) {
  const Grid& grid = lifter.grid;
  const std::vector<int32_t> positions = anchor_positions(tokens, count, grid.tokens());
  parallel_rows(grid.rows, BlurredRows::cost(lifter, channels), [&](int64_t begin, int64_t end) {
    BlurredRows rows(lifter, v, channels);
    std::vector<float> lifted(static_cast<size_t>(grid.cols * channels));
    for (int64_t r = begin; r < end; ++r) {
      const int32_t* of_row = positions.data() + r * grid.cols;
      const int32_t* row_end = of_row + grid.cols;
      if (std::all_of(of_row, row_end, [](int32_t position) { return position < 0; })) continue;
      kernels::LiftRow row = rows.at(r);
      row.full = lifted.data();
      kernels::table().jit.lift_row(row);
      for (int64_t column = 0; column < grid.cols; ++column) {
        if (of_row[column] >= 0) visit(of_row[column], lifted.data() + column * channels);
      }
    }
  });
}

// `latents` null: lifts only.
at::Tensor lift_images(const at::Tensor& v, const TokenLists& anchors, const Grid& grid,
                       LifterCache& cache, Blur blur, float* latents, double d_sigma) {
  count(Counter::kLiftStep);
  const int64_t images = v.size(0);
  const int64_t count = v.size(1);
  const int64_t channels = v.size(2);
  at::Tensor full = at::empty({images, grid.tokens(), channels}, v.options());
  const int64_t stride = grid.tokens() * channels;
  // Everything that may fail comes before the first image is changed.
  const at::Tensor blurred = on_accelerator() ? blur_scratch(grid, channels) : at::Tensor();
  std::vector<std::shared_ptr<const Lifter>> lifters;
  for (int64_t b = 0; b < images; ++b) {
    lifters.push_back(cache.get(anchors.of(b), count, grid, blur));
  }
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

Lifter::Lifter(const int32_t* list, int64_t count, const Grid& on, Blur with)
    : grid(on), anchors(list, list + count), blur(with) {
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
  radius = blur == Blur::kNone ? 0 : static_cast<int64_t>(std::ceil(3.0 * sigma));
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
                                               const Grid& grid, Blur blur) {
  for (auto it = lifters_.rbegin(); it != lifters_.rend(); ++it) {
    const Lifter& l = **it;
    if (l.blur == blur && l.grid.rows == grid.rows && l.grid.cols == grid.cols &&
        static_cast<int64_t>(l.anchors.size()) == count &&
        std::equal(l.anchors.begin(), l.anchors.end(), anchors)) {
      return *it;
    }
  }
  if (lifters_.size() == kCapacity) lifters_.erase(lifters_.begin());
  lifters_.push_back(std::make_shared<const Lifter>(anchors, count, grid, blur));
  return lifters_.back();
}

at::Tensor lift(const at::Tensor& v, const TokenLists& anchors, const Grid& grid,
                LifterCache& cache, Blur blur) {
  return lift_images(v, anchors, grid, cache, blur, nullptr, 0.0);
}

at::Tensor lift_and_step(at::Tensor& latents, const at::Tensor& v, const TokenLists& anchors,
                         const Grid& grid, double d_sigma, LifterCache& cache) {
  return lift_images(v, anchors, grid, cache, Blur::kGaussian, latents.mutable_data_ptr<float>(),
                     d_sigma);
}

void lift_at(const at::Tensor& v, const TokenLists& anchors, const TokenLists& tokens,
             const Grid& grid, LifterCache& cache, const LiftVisitor& visit) {
  count(Counter::kLiftStep);
  const int64_t channels = v.size(2);
  for (int64_t b = 0; b < v.size(0); ++b) {
    const auto lifter = cache.get(anchors.of(b), v.size(1), grid);
    lift_image_at(*lifter, v.const_data_ptr<float>() + b * v.size(1) * channels, tokens.of(b),
                  tokens.count, channels,
                  [&](int64_t i, const float* lifted) { visit(b, i, lifted); });
  }
}

at::Tensor blur_scratch(const Grid& grid, int64_t channels) {
  return at::empty({grid.tokens(), channels}, options_here(at::kFloat));
}

}  // namespace jitflux::jit
