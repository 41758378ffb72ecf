#include "eager_parts.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/group_norm.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/upsample_nearest2d.h>

#include <optional>
#include <utility>
#include <vector>

#include "models/t5/t5_encoder.h"
#include "parameter_source.h"

namespace jitflux::bench {

namespace {

constexpr double kEpsilon = 1e-6;
constexpr double kClipEpsilon = 1e-5;
constexpr int64_t kBuckets = 32;
constexpr int64_t kMaxDistance = 128;
constexpr int64_t kNormGroups = 32;

// T5LayerNorm: no mean, no bias; the variance in float32.
struct RmsNorm {
  RmsNorm(ParameterSource& from, const std::string& name) : weight(from.take(name + ".weight")) {}

  at::Tensor operator()(const at::Tensor& x) const {
    const at::Tensor wide = x.to(at::kFloat);
    const at::Tensor variance = (wide * wide).mean(-1, /*keepdim=*/true);
    return weight * (wide * at::rsqrt(variance + kEpsilon)).to(weight.scalar_type());
  }

  at::Tensor weight;
};

struct T5Layer {
  T5Layer(ParameterSource& from, const std::string& name)
      : norm1(from, name + "0.layer_norm"),
        q(from, name + "0.SelfAttention.q", false),
        k(from, name + "0.SelfAttention.k", false),
        v(from, name + "0.SelfAttention.v", false),
        o(from, name + "0.SelfAttention.o", false),
        norm2(from, name + "1.layer_norm"),
        gate(from, name + "1.DenseReluDense.wi_0", false),
        up(from, name + "1.DenseReluDense.wi_1", false),
        down(from, name + "1.DenseReluDense.wo", false) {}

  at::Tensor operator()(at::Tensor x, const at::Tensor& bias, int64_t heads) const {
    const auto split = [&](const at::Tensor& t) {
      return t.unflatten(-1, {heads, -1}).transpose(1, 2);
    };
    at::Tensor h = norm1(x);
    const at::Tensor scores = at::matmul(split(q(h)), split(k(h)).transpose(2, 3)) + bias;
    const at::Tensor weights = at::softmax(scores.to(at::kFloat), -1).to(scores.scalar_type());
    x = x + o(at::matmul(weights, split(v(h))).transpose(1, 2).flatten(2));
    h = norm2(x);
    return x + down(at::gelu(gate(h), "tanh") * up(h));
  }

  RmsNorm norm1;
  EagerLinear q, k, v, o;
  RmsNorm norm2;
  EagerLinear gate, up, down;
};

class T5 final : public EagerPart {
 public:
  T5(ParameterSource from, int64_t layers, int64_t heads)
      : heads_(heads),
        tokens_(from.take("shared.weight")),
        bias_(from.take("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight")),
        final_norm_(from, "encoder.final_layer_norm") {
    for (int64_t i = 0; i < layers; ++i) {
      layers_.emplace_back(from, "encoder.block." + std::to_string(i) + ".layer.");
    }
    from.expect_all_taken();
  }

  at::Tensor run(const at::Tensor& ids) const override {
    at::Tensor x = at::embedding(tokens_, ids);
    const at::Tensor bias = position_bias(ids.size(1));
    for (const T5Layer& layer : layers_) x = layer(x, bias, heads_);
    return final_norm_(x);
  }

 private:
  // [1, heads, T, T], made anew for every prompt as transformers does.
  at::Tensor position_bias(int64_t length) const {
    std::vector<int64_t> buckets;
    for (int64_t query = 0; query < length; ++query) {
      for (int64_t key = 0; key < length; ++key) {
        buckets.push_back(t5_bucket(key - query, kBuckets, kMaxDistance));
      }
    }
    const at::Tensor index = at::arange(length * length, at::kLong);
    std::copy(buckets.begin(), buckets.end(), index.mutable_data_ptr<int64_t>());
    return at::embedding(bias_, index.view({length, length})).permute({2, 0, 1}).unsqueeze(0);
  }

  int64_t heads_;
  at::Tensor tokens_;
  at::Tensor bias_;
  RmsNorm final_norm_;
  std::vector<T5Layer> layers_;
};

struct LayerNorm {
  LayerNorm(ParameterSource& from, const std::string& name)
      : weight(from.take(name + ".weight")), bias(from.take(name + ".bias")) {}

  at::Tensor operator()(const at::Tensor& x) const {
    return at::layer_norm(x, {x.size(-1)}, weight, bias, kClipEpsilon);
  }

  at::Tensor weight;
  at::Tensor bias;
};

struct ClipLayer {
  ClipLayer(ParameterSource& from, const std::string& name)
      : norm1(from, name + "layer_norm1"),
        q(from, name + "self_attn.q_proj"),
        k(from, name + "self_attn.k_proj"),
        v(from, name + "self_attn.v_proj"),
        out(from, name + "self_attn.out_proj"),
        norm2(from, name + "layer_norm2"),
        up(from, name + "mlp.fc1"),
        down(from, name + "mlp.fc2") {}

  at::Tensor operator()(at::Tensor x, int64_t heads) const {
    const auto split = [&](const at::Tensor& t) {
      return t.unflatten(-1, {heads, -1}).transpose(1, 2);
    };
    at::Tensor h = norm1(x);
    const at::Tensor attended =
        at::scaled_dot_product_attention(split(q(h)), split(k(h)), split(v(h)),
                                         /*attn_mask=*/std::nullopt, 0.0, /*is_causal=*/true);
    x = x + out(attended.transpose(1, 2).flatten(2));
    h = up(norm2(x));
    return x + down(h * at::sigmoid(h * 1.702));  // quick-GELU
  }

  LayerNorm norm1;
  EagerLinear q, k, v, out;
  LayerNorm norm2;
  EagerLinear up, down;
};

class Clip final : public EagerPart {
 public:
  Clip(ParameterSource from, int64_t layers, int64_t heads)
      : heads_(heads),
        tokens_(from.take("text_model.embeddings.token_embedding.weight")),
        positions_(from.take("text_model.embeddings.position_embedding.weight")),
        final_norm_(from, "text_model.final_layer_norm") {
    for (int64_t i = 0; i < layers; ++i) {
      layers_.emplace_back(from, "text_model.encoder.layers." + std::to_string(i) + ".");
    }
    from.expect_all_taken();
  }

  at::Tensor run(const at::Tensor& ids) const override {
    at::Tensor x = at::embedding(tokens_, ids) + positions_.narrow(0, 0, ids.size(1));
    for (const ClipLayer& layer : layers_) x = layer(x, heads_);
    return final_norm_(x);
  }

 private:
  int64_t heads_;
  at::Tensor tokens_;
  at::Tensor positions_;
  LayerNorm final_norm_;
  std::vector<ClipLayer> layers_;
};

struct Conv {
  Conv(ParameterSource& from, const std::string& name)
      : weight(from.take(name + ".weight")), bias(from.take(name + ".bias")) {}

  at::Tensor operator()(const at::Tensor& x) const {
    const int64_t padding = weight.size(2) / 2;
    return at::conv2d(x, weight, bias, /*stride=*/1, padding);
  }

  // Downsample2D: to half the size, padded at the right and the bottom only.
  at::Tensor half(const at::Tensor& x) const {
    return at::conv2d(at::constant_pad_nd(x, {0, 1, 0, 1}), weight, bias, /*stride=*/2);
  }

  at::Tensor weight;
  at::Tensor bias;
};

struct GroupNorm {
  GroupNorm(ParameterSource& from, const std::string& name)
      : weight(from.take(name + ".weight")), bias(from.take(name + ".bias")) {}

  at::Tensor operator()(const at::Tensor& x) const {
    return at::group_norm(x, kNormGroups, weight, bias, kEpsilon);
  }

  at::Tensor weight;
  at::Tensor bias;
};

struct Resnet {
  Resnet(ParameterSource& from, const std::string& name)
      : norm1(from, name + ".norm1"),
        conv1(from, name + ".conv1"),
        norm2(from, name + ".norm2"),
        conv2(from, name + ".conv2") {
    if (conv1.weight.size(0) != conv1.weight.size(1)) {
      shortcut.emplace(from, name + ".conv_shortcut");
    }
  }

  at::Tensor operator()(const at::Tensor& x) const {
    const at::Tensor h = conv2(at::silu(norm2(conv1(at::silu(norm1(x))))));
    return (shortcut ? (*shortcut)(x) : x) + h;
  }

  GroupNorm norm1;
  Conv conv1;
  GroupNorm norm2;
  Conv conv2;
  std::optional<Conv> shortcut;
};

struct MiddleAttention {
  MiddleAttention(ParameterSource& from, const std::string& name)
      : norm(from, name + ".group_norm"),
        q(from, name + ".to_q"),
        k(from, name + ".to_k"),
        v(from, name + ".to_v"),
        out(from, name + ".to_out.0") {}

  at::Tensor operator()(const at::Tensor& x) const {
    const at::Tensor h = norm(x.flatten(2)).transpose(1, 2);
    const auto head = [](const at::Tensor& t) { return t.unsqueeze(1); };
    const at::Tensor attended =
        at::scaled_dot_product_attention(head(q(h)), head(k(h)), head(v(h))).squeeze(1);
    return x + out(attended).transpose(1, 2).view(x.sizes());
  }

  GroupNorm norm;
  EagerLinear q, k, v, out;
};

// Of the encoder or the decoder, between its levels and its ends.
struct Middle {
  Middle(ParameterSource& from, const std::string& name)
      : first(from, name + ".resnets.0"),
        attention(from, name + ".attentions.0"),
        second(from, name + ".resnets.1") {}

  at::Tensor operator()(const at::Tensor& x) const { return second(attention(first(x))); }

  Resnet first;
  MiddleAttention attention;
  Resnet second;
};

struct Level {
  std::vector<Resnet> blocks;
  std::optional<Conv> resample;  // to the next level

  at::Tensor operator()(at::Tensor x) const {
    for (const Resnet& block : blocks) x = block(x);
    return x;
  }
};

// name: up to the level's number; resampler: up to its convolution.
std::vector<Level> take_levels(ParameterSource& from, const std::string& name, int64_t levels,
                               int64_t blocks, const std::string& resampler) {
  std::vector<Level> taken;
  for (int64_t i = 0; i < levels; ++i) {
    const std::string level = name + std::to_string(i);
    Level& last = taken.emplace_back();
    for (int64_t j = 0; j < blocks; ++j) {
      last.blocks.emplace_back(from, level + ".resnets." + std::to_string(j));
    }
    if (i + 1 < levels) last.resample.emplace(from, level + resampler);
  }
  return taken;
}

// Either half of an autoencoder.
class AutoencoderHalf : public EagerPart {
 protected:
  AutoencoderHalf(ParameterSource from, const std::string& name, const std::string& blocks,
                  int64_t levels, int64_t blocks_per_level, const std::string& resampler)
      : in_(from, name + ".conv_in"),
        middle_(from, name + ".mid_block"),
        norm_out_(from, name + ".conv_norm_out"),
        out_(from, name + ".conv_out"),
        levels_(take_levels(from, name + "." + blocks + ".", levels, blocks_per_level, resampler)) {
  }

  at::Tensor begin(const at::Tensor& x) const { return in_(x.to(in_.weight.scalar_type())); }
  at::Tensor end(const at::Tensor& x) const { return out_(at::silu(norm_out_(x))); }

  Conv in_;
  Middle middle_;
  GroupNorm norm_out_;
  Conv out_;
  std::vector<Level> levels_;
};

class Encoder final : public AutoencoderHalf {
 public:
  Encoder(ParameterSource from, int64_t levels)
      : AutoencoderHalf(std::move(from), "encoder", "down_blocks", levels, 2,
                        ".downsamplers.0.conv") {}

  at::Tensor run(const at::Tensor& picture) const override {
    at::Tensor x = begin(picture);
    for (const Level& level : levels_) {
      x = level(x);
      if (level.resample) x = level.resample->half(x);
    }
    return end(middle_(x)).chunk(2, 1)[0].contiguous();
  }
};

class Decoder final : public AutoencoderHalf {
 public:
  Decoder(ParameterSource from, int64_t levels)
      : AutoencoderHalf(std::move(from), "decoder", "up_blocks", levels, 3, ".upsamplers.0.conv") {}

  at::Tensor run(const at::Tensor& latents) const override {
    at::Tensor x = middle_(begin(latents));
    for (const Level& level : levels_) {
      x = level(x);
      if (level.resample) {
        x = (*level.resample)(at::upsample_nearest2d(x, {2 * x.size(2), 2 * x.size(3)}));
      }
    }
    return end(x);
  }
};

}  // namespace

std::unique_ptr<const EagerPart> load_eager_t5(const std::string& path, int64_t layers,
                                               int64_t heads, at::ScalarType dtype) {
  return std::make_unique<T5>(ParameterSource(path, dtype), layers, heads);
}

std::unique_ptr<const EagerPart> load_eager_clip(const std::string& path, int64_t layers,
                                                 int64_t heads, at::ScalarType dtype) {
  return std::make_unique<Clip>(ParameterSource(path, dtype), layers, heads);
}

std::unique_ptr<const EagerPart> load_eager_encoder(const std::string& path, int64_t levels,
                                                    at::ScalarType dtype) {
  return std::make_unique<Encoder>(ParameterSource(path, dtype), levels);
}

std::unique_ptr<const EagerPart> load_eager_decoder(const std::string& path, int64_t levels,
                                                    at::ScalarType dtype) {
  return std::make_unique<Decoder>(ParameterSource(path, dtype), levels);
}

}  // namespace jitflux::bench
