// condition(): what depends on sigma, guidance and the prompt only, for all steps at once.
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/silu.h>

#include <cmath>

#include "flux/transformer.h"

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
  return out.to(dtype);
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
  return sum + embed(pooled_, pooled.to(dtype)).unsqueeze(0);
}

std::shared_ptr<const Conditioning> FluxTransformer::condition(const at::Tensor& prompt,
                                                               const at::Tensor& pooled,
                                                               const std::vector<double>& guidance,
                                                               const std::vector<double>& sigmas,
                                                               const Job& job) {
  auto result = std::make_shared<Conditioning>();
  const auto steps = static_cast<int64_t>(sigmas.size());
  const int64_t images = prompt.size(0);
  result->images = images;
  result->steps = steps;
  result->text_tokens = prompt.size(1);
  result->owner = this;
  result->text = text_in_(prompt.to(options_.dtype)).contiguous();

  const at::Tensor activated = at::silu(embed_conditioning(pooled, guidance, sigmas));
  const auto modulation = [&](const ModulationLinear& source, int64_t parts) {
    job.checkpoint();
    const Linear linear = source.resident ? *source.resident : weights_->linear(source.module);
    at::Tensor vectors = linear(activated)
                             .to(at::kFloat)
                             .view({steps, images, parts, config_.hidden()})
                             .contiguous();
    // Once per request: until the next one they need not count as this process's memory. Resident
    // ones come back from the page cache.
    weights_->release(source.module);
    return vectors;
  };
  for (const DoubleBlock& block : double_blocks_) {
    result->image_stream.push_back(modulation(block.image.modulation, 6));
    result->text_stream.push_back(modulation(block.text.modulation, 6));
  }
  for (const SingleBlock& block : single_blocks_) {
    result->single_stream.push_back(modulation(block.modulation, 3));
  }
  result->final_layer = modulation(final_modulation_, 2);
  return result;
}

}  // namespace jitflux
