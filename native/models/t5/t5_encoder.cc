#include "models/t5/t5_encoder.h"

#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/scaled_dot_product_attention.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "layers/activation.h"
#include "layers/token_passes.h"
#include "residency/weight_tensors.h"
#include "runtime/device.h"
#include "runtime/memory_arena.h"
#include "runtime/parallel.h"

namespace jitflux {

int64_t t5_bucket(int64_t relative, int64_t buckets, int64_t max_distance) {
  const int64_t half = buckets / 2;
  const int64_t exact = half / 2;
  const int64_t side = relative > 0 ? half : 0;
  const int64_t distance = std::abs(relative);
  if (distance < exact) return side + distance;
  // In float32, as transformers computes it.
  const float position =
      std::log(static_cast<float>(distance) / static_cast<float>(exact)) /
      static_cast<float>(std::log(static_cast<double>(max_distance) / static_cast<double>(exact))) *
      static_cast<float>(half - exact);
  return side + std::min(exact + static_cast<int64_t>(position), half - 1);
}

std::shared_ptr<T5Encoder> T5Encoder::load(std::shared_ptr<const WeightFile> file,
                                           const T5Options& options, const Job& job) {
  const T5Weights weights = T5Weights::resolve(std::move(file), options);
  const std::shared_ptr<T5Encoder> model(new T5Encoder());
  model->config_ = weights.config;
  const T5Config& config = model->config_;
  model->dtype_ = options.dtype;
  model->int8_ = options.int8;
  WeightLoader from(weights.parameters, options.dtype, job);
  model->tokens_ = from.matrix(config.embedding);
  model->bias_table_ = from.copy(t5_position_bias(), at::kFloat);
  const MemoryArena staging;  // of matrices that are quantised, one after the other
  const auto load = [&](const std::string& module) {
    if (!options.int8) return Layer{.plain = from.linear(module), .quantized = {}};
    const MemoryArena::Scope scope(&staging);
    return Layer{.plain = {}, .quantized = from.quantized(module)};
  };
  for (int64_t i = 0; i < config.layers; ++i) {
    const std::string layer = "encoder.block." + std::to_string(i) + ".layer.";
    const std::string mlp = layer + "1.DenseReluDense.";
    model->blocks_.push_back({from.copy(layer + "0.layer_norm.weight", at::kFloat),
                              load(t5_attention(i) + "q"), load(t5_attention(i) + "k"),
                              load(t5_attention(i) + "v"), load(t5_attention(i) + "o"),
                              from.copy(layer + "1.layer_norm.weight", at::kFloat),
                              load(mlp + "wi_0"), load(mlp + "wi_1"), load(mlp + "wo")});
  }
  model->final_norm_ = from.copy("encoder.final_layer_norm.weight", at::kFloat);
  model->mapped_file_ = from.mapped_file();
  return model;
}

const at::Tensor& T5Encoder::position_bias(int64_t length) {
  if (position_bias_.defined() && position_bias_.size(2) == length) return position_bias_;
  std::vector<int64_t> bucket(static_cast<size_t>(2 * length - 1));  // of key - query + length - 1
  for (int64_t i = 0; i < 2 * length - 1; ++i) {
    bucket[i] = t5_bucket(i - (length - 1), config_.buckets, config_.max_distance);
  }
  at::Tensor bias = at::empty({1, config_.heads, length, length}, at::kFloat);
  const at::Tensor host_table = bias_table_.cpu();
  const float* table = host_table.const_data_ptr<float>();
  float* out = bias.mutable_data_ptr<float>();
  parallel_rows(config_.heads * length, length, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t head = row / length;
      const int64_t query = row % length;
      for (int64_t key = 0; key < length; ++key) {
        out[row * length + key] = table[bucket[key - query + length - 1] * config_.heads + head];
      }
    }
  });
  // An accelerator's attention wants it in the type of its inputs.
  if (on_accelerator()) bias = bias.to(current_device(), dtype_);
  position_bias_ = std::move(bias);
  return position_bias_;
}

LayerInput T5Encoder::layer_input(at::Tensor rows) const {
  if (!int8_) return {std::move(rows), {}};
  LayerInput input{at::empty(rows.sizes(), at::kByte), at::empty({rows.size(0)}, at::kFloat)};
  quantize(rows, input);
  return input;
}

at::Tensor T5Encoder::multiply(const Layer& layer, const LayerInput& x) const {
  return int8_ ? layer.quantized(x.values, dtype_) : layer.plain(x.values);
}

template <typename T>
at::Tensor T5Encoder::run(const at::Tensor& ids, const Job& job) {
  const int64_t images = ids.size(0);
  const int64_t length = ids.size(1);
  const int64_t rows = images * length;
  const int64_t d = config_.width;
  const int64_t inner = config_.heads * config_.head_dim;
  const at::Tensor& bias = position_bias(length);
  const auto heads = [&](const at::Tensor& t) {
    return t.view({images, length, config_.heads, config_.head_dim}).transpose(1, 2);
  };
  // The residual stream stays in float32: it outgrows what 16-bit sums keep.
  at::Tensor x = at::embedding(tokens_, ids.view({rows}).to(current_device())).to(at::kFloat);
  const auto normed = [&](const at::Tensor& weight, auto tag) {
    using Out = decltype(tag);
    constexpr at::ScalarType kType = c10::CppTypeToScalarType<Out>::value;
    at::Tensor out = at::empty({rows, d}, options_here(kType));
    const float* from = x.const_data_ptr<float>();
    const float* scale = weight.const_data_ptr<float>();
    if (const auto* device = current_kernels()) {
      device->rms_norm(element_of(kType), from, scale, out.mutable_data_ptr(), rows, d,
                       static_cast<float>(config_.eps), current_stream());
      return out;
    }
    auto* to = data<Out>(out);
    parallel_rows(rows, 3 * d, [&](int64_t begin, int64_t end) {
      row_kernels<Out>().rms_norm(from + begin * d, scale, to + begin * d, end - begin, d,
                                  static_cast<float>(config_.eps));
    });
    return out;
  };
  // What a kernel does to rows [begin, end) of products, whose scales start at `begin`.
  const auto each_row = [&](const LayerInput& from, int64_t cost, const auto& kernel) {
    const float* scale =
        from.row_scale.defined() ? from.row_scale.const_data_ptr<float>() : nullptr;
    parallel_rows(rows, cost, [&](int64_t begin, int64_t end) {
      kernel(begin, end - begin, kernels::Rescale{scale == nullptr ? nullptr : scale + begin});
    });
  };
  const auto projected = [&](const Layer& layer, const LayerInput& h) {
    const at::Tensor y = multiply(layer, h);
    if (h.row_scale.defined()) {
      auto* values = data<T>(y);
      each_row(h, 2 * inner, [&](int64_t row, int64_t count, kernels::Rescale rescale) {
        row_kernels<T>().rescale_rows(values + row * inner, rescale, count, inner);
      });
    }
    return heads(y);
  };
  const auto add = [&](const Layer& layer, const LayerInput& h) {
    const at::Tensor y = multiply(layer, h);
    if (on_accelerator()) return void(x.add_(y));
    const auto* from = const_data<T>(y);
    auto* to = x.mutable_data_ptr<float>();
    each_row(h, 3 * d, [&](int64_t row, int64_t count, kernels::Rescale rescale) {
      row_kernels<T>().add_rows(to + row * d, from + row * d, rescale, count, d);
    });
  };
  const auto activated = [&](const Block& block, const LayerInput& h) {
    at::Tensor gate = multiply(block.gate, h);
    const at::Tensor up = multiply(block.up, h);
    if (on_accelerator()) {
      at::gelu_(gate, "tanh");
      return gate.mul_(up);
    }
    const int64_t mlp = config_.mlp;
    auto* to = data<T>(gate);
    const auto* with = const_data<T>(up);
    each_row(h, 8 * mlp, [&](int64_t row, int64_t count, kernels::Rescale rescale) {
      row_kernels<T>().gated_gelu(to + row * mlp, with + row * mlp, rescale, count, mlp);
    });
    return gate;
  };

  for (size_t i = 0; i < blocks_.size(); ++i) {
    job.checkpoint();
    if (mapped_file_) mapped_file_->expect_unchanged_mappings();
    const Block& block = blocks_[i];
    LayerInput h = layer_input(normed(block.norm1, T{}));
    const at::Tensor attended = at::scaled_dot_product_attention(
        projected(block.q, h), projected(block.k, h), projected(block.v, h), bias,
        /*dropout_p=*/0.0, /*is_causal=*/false, /*scale=*/1.0);
    add(block.out, layer_input(attended.transpose(1, 2).reshape({rows, inner})));
    h = layer_input(normed(block.norm2, T{}));
    add(block.down, layer_input(activated(block, h)));
    if (job.progress) job.progress(i + 1, blocks_.size(), "block");
  }
  if (mapped_file_) mapped_file_->expect_unchanged_mappings();
  return normed(final_norm_, float{}).view({images, length, d});
}

at::Tensor T5Encoder::encode(const at::Tensor& ids, const Job& job) {
  return dtype_ == at::kBFloat16 ? run<at::BFloat16>(ids, job) : run<float>(ids, job);
}

}  // namespace jitflux
