#include "jit/operators.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/counters.h"
#include "base/parallel.h"
#include "kernels/kernels.h"
#include "kernels/reflect.h"
#include "runtime/device.h"

namespace jitflux::jit {

namespace {

kernels::DeviceStream stream() { return current_session()->stream(); }

// Token lists where kernels read them.
class DeviceLists {
 public:
  // `lists` must outlive it.
  explicit DeviceLists(const TokenLists& lists)
      : lists_(lists), tensor_(on_current_device(lists.tokens)) {}
  const int32_t* of(int64_t image) const {
    return tensor_.const_data_ptr<int32_t>() + (lists_.shared() ? 0 : image * lists_.count);
  }

 private:
  const TokenLists& lists_;
  at::Tensor tensor_;
};

// Where the device's lifter keeps the field that is blurred along one direction.
at::Tensor blur_scratch(const Grid& grid, int64_t channels) {
  return at::empty({grid.tokens(), channels}, options_here(at::kFloat));
}

// Lifts one image's v [M, C] into full [N, C]; also latents += d_sigma * full unless latents is
// null. `blurred`: blur_scratch, on an accelerator.
void lift_image(const Lifter& lifter, const float* v, float* full, float* latents, float d_sigma,
                int64_t channels, const at::Tensor& blurred) {
  if (const auto* device = current_kernels()) {
    device->lift_step(
        v, lifter.nearest.const_data_ptr<int32_t>(), lifter.positions.const_data_ptr<int32_t>(),
        lifter.weights.const_data_ptr<float>(), lifter.radius, blurred.mutable_data_ptr<float>(),
        full, latents, d_sigma, lifter.grid.rows, lifter.grid.cols, channels, stream());
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
      kernels.lift_row(rows.data(), v, positions + at, weights, taps, full + at * channels,
                       latents == nullptr ? nullptr : latents + at * channels, d_sigma, grid.cols,
                       channels);
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
  // Everything that may fail comes before the first image is changed.
  const at::Tensor blurred =
      current_session() == nullptr ? at::Tensor() : blur_scratch(grid, channels);
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

at::Tensor on_current_device(const std::vector<int32_t>& list) {
  if (list.empty()) return {};
  const at::Tensor host = at::from_blob(const_cast<int32_t*>(list.data()),
                                        {static_cast<int64_t>(list.size())}, at::kInt);
  // Read before the call returns: pageable memory is staged.
  return host.to(current_device(), at::kInt, /*non_blocking=*/true);
}

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
                             stream());
    device->nearest_anchor_map(positions_data, nearest_data, scratch.mutable_data_ptr(), on.rows,
                               on.cols, stream());
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
  const auto* device = current_kernels();
  const DeviceLists lists(anchors);
  for (int64_t b = 0; b < images; ++b) {
    const int32_t* list = lists.of(b);
    if (device != nullptr) {
      device->gather_rows(src + b * tokens * channels, list, dst + b * anchors.count * channels,
                          anchors.count, channels, stream());
      continue;
    }
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
  if (current_session() != nullptr) {
    latents.add_(v, d_sigma);
    return v;
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
    if (const auto* device = current_kernels()) {
      device->local_variance(v, map, grid.rows, grid.cols, channels, stream());
      continue;
    }
    parallel_rows(grid.rows, grid.cols * channels * 9, [&](int64_t begin, int64_t end) {
      kernels.local_variance(v, map, begin, end, grid.rows, grid.cols, channels);
    });
  }
  return out;
}

std::vector<int32_t> select_tokens(const at::Tensor& velocity, const TokenLists& anchors,
                                   int64_t count, const Grid& grid) {
  const int64_t images = velocity.size(0);
  const int64_t tokens = grid.tokens();
  std::vector<int32_t> chosen(static_cast<size_t>(images * count));
  const at::Tensor map = importance(velocity, grid);
  if (const auto* device = current_kernels()) {
    const at::TensorOptions options = options_here(at::kInt);
    const DeviceLists lists(anchors);
    const at::Tensor positions = at::empty({tokens}, options);
    const at::Tensor found = at::empty({images, count}, options);
    for (int64_t b = 0; b < images; ++b) {
      device->anchor_positions(lists.of(b), anchors.count, positions.mutable_data_ptr<int32_t>(),
                               tokens, stream());
      device->top_k(map.const_data_ptr<float>() + b * tokens, positions.const_data_ptr<int32_t>(),
                    tokens, count, found.mutable_data_ptr<int32_t>() + b * count, stream());
    }
    const at::Tensor host = found.cpu();
    std::copy_n(host.const_data_ptr<int32_t>(), host.numel(), chosen.data());
    return chosen;
  }
  for (int64_t b = 0; b < images; ++b) {
    const float* score = map.const_data_ptr<float>() + b * tokens;
    const auto value = [&](int32_t token) {
      return std::isnan(score[token]) ? -std::numeric_limits<float>::infinity() : score[token];
    };
    const std::vector<int32_t> position = anchor_positions(anchors.of(b), anchors.count, tokens);
    std::vector<int32_t> candidates;
    for (int32_t t = 0; t < tokens; ++t) {
      if (position[t] < 0) candidates.push_back(t);
    }
    std::partial_sort(candidates.begin(), candidates.begin() + count, candidates.end(),
                      [&](int32_t a, int32_t c) {
                        const float x = value(a);
                        const float y = value(c);
                        return x != y ? x > y : a < c;
                      });
    std::copy_n(candidates.begin(), count, chosen.begin() + b * count);
  }
  return chosen;
}

at::Tensor micro_flow_target(const at::Tensor& clean, const at::Tensor& noise,
                             const TokenLists& anchors, const TokenLists& new_tokens, double sigma,
                             const Grid& grid, LifterCache& cache) {
  if (const auto* device = current_kernels()) {
    // Lifted at the newcomers only.
    const int64_t channels = clean.size(2);
    const at::Tensor v = gather(clean, anchors);
    const at::Tensor blurred = blur_scratch(grid, channels);
    const DeviceLists tokens(new_tokens);
    at::Tensor target = at::empty({clean.size(0), new_tokens.count, channels}, clean.options());
    for (int64_t b = 0; b < clean.size(0); ++b) {
      const auto lifter = cache.get(anchors.of(b), anchors.count, grid);
      device->micro_flow_target(v.const_data_ptr<float>() + b * anchors.count * channels,
                                lifter->nearest.const_data_ptr<int32_t>(),
                                lifter->positions.const_data_ptr<int32_t>(),
                                lifter->weights.const_data_ptr<float>(), lifter->radius,
                                blurred.mutable_data_ptr<float>(),
                                noise.const_data_ptr<float>() + b * grid.tokens() * channels,
                                tokens.of(b), new_tokens.count, static_cast<float>(sigma),
                                target.mutable_data_ptr<float>() + b * new_tokens.count * channels,
                                grid.rows, grid.cols, channels, stream());
    }
    return target;
  }
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
  const auto* device = current_kernels();
  const DeviceLists lists(new_tokens);
  for (int64_t b = 0; b < images; ++b) {
    const int32_t* list = lists.of(b);
    if (device != nullptr) {
      device->blend_rows(y + b * tokens * channels, to + b * new_tokens.count * channels, list, w,
                         new_tokens.count, channels, stream());
      continue;
    }
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
