#include "models/clip/clip_text_encoder.h"

#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/sigmoid.h>

#include <algorithm>

#include "residency/weight_tensors.h"
#include "runtime/device.h"

namespace jitflux {

std::shared_ptr<ClipTextEncoder> ClipTextEncoder::load(std::shared_ptr<const WeightFile> file,
                                                       const ClipOptions& options, const Job& job) {
  const ClipWeights weights = ClipWeights::resolve(std::move(file), options);
  const std::shared_ptr<ClipTextEncoder> model(new ClipTextEncoder());
  model->config_ = weights.config;
  const ClipConfig& config = model->config_;
  model->dtype_ = options.dtype;
  WeightLoader from(weights.parameters, options.dtype, job);
  const auto norm = [&](const std::string& name) {
    return Norm{from.copy(name + ".weight", at::kFloat), from.copy(name + ".bias", at::kFloat)};
  };
  model->tokens_ = from.matrix("embeddings.token_embedding.weight");
  model->positions_ = from.copy("embeddings.position_embedding.weight", at::kFloat);
  for (int64_t i = 0; i < config.layers; ++i) {
    const std::string layer = "encoder.layers." + std::to_string(i) + ".";
    const std::string attention = layer + "self_attn.";
    model->layers_.push_back({norm(layer + "layer_norm1"), from.linear(attention + "q_proj"),
                              from.linear(attention + "k_proj"), from.linear(attention + "v_proj"),
                              from.linear(attention + "out_proj"), norm(layer + "layer_norm2"),
                              from.linear(layer + "mlp.fc1"), from.linear(layer + "mlp.fc2")});
  }
  model->final_norm_ = norm("final_layer_norm");
  model->mapped_file_ = from.mapped_file();
  return model;
}

namespace {

// Index of the token whose state is the pooled vector.
int64_t pooled_position(const int64_t* ids, int64_t length, int64_t end_of_text) {
  if (end_of_text == 2) return std::max_element(ids, ids + length) - ids;  // the first maximum
  const int64_t* found = std::find(ids, ids + length, end_of_text);
  return found == ids + length ? 0 : found - ids;
}

}  // namespace

ClipTextEncoder::Encoded ClipTextEncoder::encode(const at::Tensor& ids, const Job& job) const {
  const int64_t images = ids.size(0);
  const int64_t length = ids.size(1);
  const int64_t d = config_.width;
  const auto normed = [&](const at::Tensor& x, const Norm& norm) {
    return at::layer_norm(x, {d}, norm.weight, norm.bias, config_.eps);
  };
  const auto heads = [&](const at::Tensor& t) {
    return t.view({images, length, config_.heads, d / config_.heads}).transpose(1, 2);
  };

  // The residual stream stays in float32 whatever the weights are in.
  at::Tensor x = at::embedding(tokens_, ids.to(current_device()))
                     .to(at::kFloat)
                     .add(positions_.narrow(0, 0, length));
  for (size_t i = 0; i < layers_.size(); ++i) {
    job.checkpoint();
    if (mapped_file_) mapped_file_->expect_unchanged_mappings();
    const Layer& layer = layers_[i];
    at::Tensor h = normed(x, layer.norm1).to(dtype_);
    const at::Tensor attended = at::scaled_dot_product_attention(
        heads(layer.q(h)), heads(layer.k(h)), heads(layer.v(h)), /*attn_mask=*/std::nullopt,
        /*dropout_p=*/0.0, /*is_causal=*/true);
    x.add_(layer.out(attended.transpose(1, 2).reshape({images, length, d})));
    h = layer.mlp_in(normed(x, layer.norm2).to(dtype_));
    h.mul_(at::sigmoid(h * 1.702));  // quick-GELU
    x.add_(layer.mlp_out(h));
    if (job.progress) job.progress(i + 1, layers_.size(), "layer");
  }
  if (mapped_file_) mapped_file_->expect_unchanged_mappings();
  Encoded result;
  result.hidden = normed(x, final_norm_);
  result.pooled = at::empty({images, d}, result.hidden.options());
  for (int64_t b = 0; b < images; ++b) {
    const int64_t position =
        pooled_position(ids.const_data_ptr<int64_t>() + b * length, length, config_.end_of_text);
    result.pooled[b].copy_(result.hidden[b][position]);
  }
  return result;
}

}  // namespace jitflux
