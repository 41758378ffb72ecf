#include "jit/operators.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/reflect.h"
#include "runtime/counters.h"
#include "runtime/parallel.h"

namespace jitflux::jit {

namespace {

// Lifts one image's v [M, C] into full [N, C]; also latents += d_sigma * full unless latents is
// null.
void lift_image(const Lifter& lifter, const float* v, float* full, float* latents, float d_sigma,
                int64_t channels) {
  const auto& kernels = kernels::table().jit;
  const Grid& grid = lifter.grid;
  const int64_t taps = 2 * lifter.radius + 1;
  const int64_t width = grid.cols * channels;
  parallel_rows(grid.rows, 2 * width * taps, [&](int64_t begin, int64_t end) {
    // Row y blurred along its columns lies in slot y % taps: the result's next row needs the latest
    // `taps` of them, which stay in the cache.
    std::vector<float> blurred(static_cast<size_t>(taps * width));
    std::vector<const float*> rows(static_cast<size_t>(taps));
    const auto slot = [&](int64_t y) { return blurred.data() + y % taps * width; };
    int64_t next = std::max<int64_t>(0, begin - lifter.radius);
    for (int64_t r = begin; r < end; ++r) {
      for (; next <= std::min(grid.rows - 1, r + lifter.radius); ++next) {
        kernels.blur_row(v, lifter.nearest.data() + next * grid.cols, lifter.weights.data(),
                         lifter.radius, slot(next), grid.cols, channels);
      }
      for (int64_t j = 0; j < taps; ++j) {
        rows[j] = slot(kernels::reflect(r + j - lifter.radius, grid.rows));
      }
      const int64_t at = r * grid.cols;
      kernels.lift_row(rows.data(), v, lifter.positions.data() + at, lifter.weights.data(), taps,
                       full + at * channels, latents == nullptr ? nullptr : latents + at * channels,
                       d_sigma, grid.cols, channels);
    }
  });
}

at::Tensor lift_and_step(const at::Tensor& v, const TokenLists& anchors, const Grid& grid,
                         LifterCache& cache, float* latents, double d_sigma) {
  count(Counter::kLiftStep);
  const int64_t images = v.size(0);
  const int64_t count = v.size(1);
  const int64_t channels = v.size(2);
  at::Tensor full = at::empty({images, grid.tokens(), channels}, v.options());
  const int64_t stride = grid.tokens() * channels;
  for (int64_t b = 0; b < images; ++b) {
    const auto lifter = cache.get(anchors.of(b), count, grid);
    lift_image(*lifter, v.const_data_ptr<float>() + b * count * channels,
               full.mutable_data_ptr<float>() + b * stride,
               latents == nullptr ? nullptr : latents + b * stride, static_cast<float>(d_sigma),
               channels);
  }
  return full;
}

}  // namespace

Lifter::Lifter(const int32_t* list, int64_t count, const Grid& on)
    : grid(on),
      anchors(list, list + count),
      nearest(nearest_anchor_map(list, count, on)),
      positions(anchor_positions(list, count, on.tokens())) {
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
  for (const double w : exact) weights.push_back(static_cast<float>(w / sum));
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

at::Tensor gather(const at::Tensor& latents, const TokenLists& anchors) {
  const int64_t images = latents.size(0);
  const int64_t tokens = latents.size(1);
  const int64_t channels = latents.size(2);
  at::Tensor out = at::empty({images, anchors.count, channels}, latents.options());
  const float* src = latents.const_data_ptr<float>();
  float* dst = out.mutable_data_ptr<float>();
  for (int64_t b = 0; b < images; ++b) {
    const int32_t* list = anchors.of(b);
    parallel_rows(anchors.count, channels, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        std::memcpy(dst + (b * anchors.count + i) * channels,
                    src + (b * tokens + list[i]) * channels,
                    static_cast<size_t>(channels) * sizeof(float));
      }
    });
  }
  return out;
}

at::Tensor lift(const at::Tensor& v, const TokenLists& anchors, const Grid& grid,
                LifterCache& cache) {
  return lift_and_step(v, anchors, grid, cache, nullptr, 0.0);
}

at::Tensor step(at::Tensor& latents, const at::Tensor& v, const TokenLists& anchors,
                const Grid& grid, double d_sigma, LifterCache& cache) {
  if (!anchors.empty()) {
    return lift_and_step(v, anchors, grid, cache, latents.mutable_data_ptr<float>(), d_sigma);
  }
  const auto& kernels = kernels::table().jit;
  const float* velocity = v.const_data_ptr<float>();
  float* y = latents.mutable_data_ptr<float>();
  parallel_rows(v.numel(), 1, [&](int64_t begin, int64_t end) {
    kernels.axpy(static_cast<float>(d_sigma), velocity + begin, y + begin, end - begin);
  });
  return v;
}

at::Tensor importance(const at::Tensor& velocity, const Grid& grid) {
  const int64_t images = velocity.size(0);
  const int64_t channels = velocity.size(2);
  at::Tensor out = at::empty({images, grid.tokens()}, velocity.options());
  const auto& kernels = kernels::table().jit;
  for (int64_t b = 0; b < images; ++b) {
    const float* v = velocity.const_data_ptr<float>() + b * grid.tokens() * channels;
    float* map = out.mutable_data_ptr<float>() + b * grid.tokens();
    parallel_rows(grid.rows, grid.cols * channels * 9, [&](int64_t begin, int64_t end) {
      kernels.local_variance(v, map, begin, end, grid.rows, grid.cols, channels);
    });
  }
  return out;
}

at::Tensor micro_flow_target(const at::Tensor& clean, const at::Tensor& noise,
                             const TokenLists& anchors, const TokenLists& new_tokens, double sigma,
                             const Grid& grid, LifterCache& cache) {
  const at::Tensor lifted = lift(gather(clean, anchors), anchors, grid, cache);
  at::Tensor target = gather(lifted, new_tokens);
  const at::Tensor eps = gather(noise, new_tokens);
  float* y = target.mutable_data_ptr<float>();
  const float* e = eps.const_data_ptr<float>();
  const auto s = static_cast<float>(sigma);
  parallel_rows(target.numel(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) y[i] = (1.0f - s) * y[i] + s * e[i];
  });
  return target;
}

void blend(at::Tensor& latents, const at::Tensor& target, const TokenLists& new_tokens,
           double weight) {
  const int64_t images = latents.size(0);
  const int64_t tokens = latents.size(1);
  const int64_t channels = latents.size(2);
  const auto w = static_cast<float>(weight);
  float* y = latents.mutable_data_ptr<float>();
  const float* to = target.const_data_ptr<float>();
  for (int64_t b = 0; b < images; ++b) {
    const int32_t* list = new_tokens.of(b);
    parallel_rows(new_tokens.count, 2 * channels, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        float* token = y + (b * tokens + list[i]) * channels;
        const float* goal = to + (b * new_tokens.count + i) * channels;
        if (weight >= 1.0) {  // exactly the target, not y + (target - y)
          std::memcpy(token, goal, static_cast<size_t>(channels) * sizeof(float));
          continue;
        }
        for (int64_t c = 0; c < channels; ++c) token[c] = (1.0f - w) * token[c] + w * goal[c];
      }
    });
  }
}

}  // namespace jitflux::jit
