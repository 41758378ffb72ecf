#include "jit/micro_flow.h"

#include <ATen/ops/empty.h>

#include <cstring>

#include "jit/device_lists.h"
#include "jit/gather.h"
#include "runtime/device.h"
#include "runtime/parallel.h"

namespace jitflux::jit {

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
      device->micro_flow_target(
          lifter->on_device(v.const_data_ptr<float>() + b * anchors.count * channels, channels,
                            blurred),
          noise.const_data_ptr<float>() + b * grid.tokens() * channels, tokens.of(b),
          new_tokens.count, static_cast<float>(sigma),
          target.mutable_data_ptr<float>() + b * new_tokens.count * channels, current_stream());
    }
    return target;
  }
  const int64_t channels = clean.size(2);
  at::Tensor target = at::empty({clean.size(0), new_tokens.count, channels}, clean.options());
  float* y = target.mutable_data_ptr<float>();
  const float* eps = noise.const_data_ptr<float>();
  const auto s = static_cast<float>(sigma);
  lift_at(gather(clean, anchors), anchors, new_tokens, grid, cache,
          [&](int64_t image, int64_t i, const float* lifted) {
            const float* e = eps + (image * grid.tokens() + new_tokens.of(image)[i]) * channels;
            float* to = y + (image * new_tokens.count + i) * channels;
            for (int64_t c = 0; c < channels; ++c) to[c] = (1.0f - s) * lifted[c] + s * e[c];
          });
  return target;
}

namespace {

// One move of all images' new tokens; `lists` are new_tokens.
void blend(at::Tensor& latents, const at::Tensor& target, const DeviceLists& lists, int64_t count,
           double weight) {
  const int64_t images = latents.size(0);
  const int64_t tokens = latents.size(1);
  const int64_t channels = latents.size(2);
  const auto w = static_cast<float>(weight);
  float* y = latents.mutable_data_ptr<float>();
  const float* to = target.const_data_ptr<float>();
  const auto* device = current_kernels();
  for (int64_t b = 0; b < images; ++b) {
    const int32_t* list = lists.of(b);
    if (device != nullptr) {
      device->blend_rows(y + b * tokens * channels, to + b * count * channels, list, w, count,
                         channels, current_stream());
      continue;
    }
    parallel_rows(count, 2 * channels, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        float* token = y + (b * tokens + list[i]) * channels;
        const float* goal = to + (b * count + i) * channels;
        if (weight >= 1.0) {  // exactly the target, not y + (target - y)
          std::memcpy(token, goal, static_cast<size_t>(channels) * sizeof(float));
          continue;
        }
        for (int64_t c = 0; c < channels; ++c) token[c] = (1.0f - w) * token[c] + w * goal[c];
      }
    });
  }
}

}  // namespace

void micro_flow(at::Tensor& latents, const at::Tensor& target, const TokenLists& new_tokens,
                const std::vector<double>& weights) {
  const DeviceLists lists(new_tokens);
  for (const double weight : weights) blend(latents, target, lists, new_tokens.count, weight);
}

}  // namespace jitflux::jit
