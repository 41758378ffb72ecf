// condition(): what depends on sigma, guidance and the prompt only, for all steps at once.
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/silu.h>

#include <cmath>

#include "models/flux/transformer.h"

namespace jitflux {

namespace {

constexpr int64_t kSinusoid = 256;

// diffusers' get_timestep_embedding: cos half first, then sin, computed in float32 from values
// already multiplied by 1000. Returns [values, 256].
at::Tensor sinusoid(const std::vector<double>& values, at::ScalarType dtype, bool round) {
  const auto count = static_cast<int64_t>(values.size());
  at::Tensor scaled = at::empty({count}, at::kFloat);
  for (int64_t i = 0; i < count; ++i) {
    scaled.mutable_data_ptr<float>()[i] = static_cast<float>(values[i]);
  }
  if (round) {
    scaled = scaled.to(dtype).mul(1000.0).to(at::kFloat);
  } else {
    scaled = scaled.mul(1000.0);
  }
  at::Tensor out = at::empty({count, kSinusoid}, at::kFloat);
  constexpr int64_t half = kSinusoid / 2;
  for (int64_t i = 0; i < count; ++i) {
    float* row = out.mutable_data_ptr<float>() + i * kSinusoid;
    for (int64_t j = 0; j < half; ++j) {
      const float frequency = std::exp(static_cast<float>(-std::log(10000.0)) *
                                       static_cast<float>(j) / static_cast<float>(half));
      const float angle = scaled.const_data_ptr<float>()[i] * frequency;
      row[j] = std::cos(angle);
      row[half + j] = std::sin(angle);
    }
  }
  return out.to(current_device(), dtype);
}

}  // namespace

at::Tensor FluxTransformer::embed_conditioning(const at::Tensor& pooled,
                                               const std::vector<double>& guidance,
                                               const std::vector<double>& sigmas) const {
  const auto embed = [](const Embedder& embedder, const at::Tensor& x) {
    return embedder.second(at::silu(embedder.first(x)));
  };
  const at::ScalarType dtype = options_.dtype;
  // [S, 1, d] + [1, B, d] -> [S, B, d], in diffusers' order of additions.
  at::Tensor sum = embed(time_, sinusoid(sigmas, dtype, options_.round_time)).unsqueeze(1);
  if (config_.guidance) {
    sum = sum + embed(guidance_, sinusoid(guidance, dtype, options_.round_time)).unsqueeze(0);
  }
  return sum + embed(pooled_, pooled.to(current_device(), dtype)).unsqueeze(0);
}

std::shared_ptr<const Conditioning> FluxTransformer::condition(const at::Tensor& prompt,
                                                               const at::Tensor& pooled,
                                                               const std::vector<double>& guidance,
                                                               const std::vector<double>& sigmas,
                                                               const Job& job) {
  const auto steps = static_cast<int64_t>(sigmas.size());
  const int64_t images = prompt.size(0);
  auto result = std::make_shared<Conditioning>(config_, images, steps);
  result->text_tokens = prompt.size(1);
  result->owner = this;
  const at::Device device = current_device();
  result->text = text_in_(prompt.to(device, options_.dtype)).contiguous();

  const at::Tensor activated = at::silu(embed_conditioning(pooled, guidance, sigmas));
  const auto modulate = [&](const ModulationLinear& source, const at::Tensor& vectors) {
    job.checkpoint();
    weights_->expect_unchanged();
    const Linear linear = source.resident ? *source.resident : weights_->linear(source.module);
    vectors.copy_(linear(activated).view(vectors.sizes()));  // widens to float32
    // Once per request: until the next one they need not count as this process's memory. Resident
    // ones come back from the page cache.
    weights_->release(source.module);
  };
  for (size_t i = 0; i < double_blocks_.size(); ++i) {
    modulate(double_blocks_[i].image.modulation, result->image_stream[i]);
    modulate(double_blocks_[i].text.modulation, result->text_stream[i]);
  }
  for (size_t i = 0; i < single_blocks_.size(); ++i) {
    modulate(single_blocks_[i].modulation, result->single_stream[i]);
  }
  modulate(final_modulation_, result->final_layer);
  weights_->expect_unchanged();
  weights_->release_staging();
  return result;
}

Conditioning::Conditioning(const FluxConfig& config, int64_t batch, int64_t sigmas)
    : images(batch), steps(sigmas) {
  const int64_t d = config.hidden();
  const int64_t parts = 12 * config.double_blocks + 3 * config.single_blocks + 2;
  modulation = at::empty({sigmas, batch * parts * d}, options_here(at::kFloat));
  int64_t column = 0;
  const auto view = [&](int64_t count) {
    const at::Tensor columns = modulation.narrow(1, column, batch * count * d);
    column += batch * count * d;
    return columns.view({sigmas, batch, count, d});
  };
  for (int64_t i = 0; i < config.double_blocks; ++i) {
    image_stream.push_back(view(6));
    text_stream.push_back(view(6));
  }
  for (int64_t i = 0; i < config.single_blocks; ++i) single_stream.push_back(view(3));
  final_layer = view(2);
}

}  // namespace jitflux
