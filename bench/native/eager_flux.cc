#include "eager_flux.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/meshgrid.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/rms_norm.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>
#include <stdexcept>
#include <utility>

#include "parameter_source.h"

namespace jitflux::bench {

namespace {

constexpr double kEpsilon = 1e-6;
constexpr double kRopeTheta = 10000.0;
constexpr int64_t kSinusoidWidth = 256;

struct HeadNorm {
  HeadNorm(ParameterSource& from, const std::string& name) : weight(from.take(name + ".weight")) {}

  at::Tensor operator()(const at::Tensor& x) const {
    return at::rms_norm(x, {x.size(-1)}, weight, kEpsilon);
  }

  at::Tensor weight;
};

struct TwoLinears {
  TwoLinears(ParameterSource& from, const std::string& name)
      : first(from, name + ".linear_1"), second(from, name + ".linear_2") {}

  at::Tensor operator()(const at::Tensor& x) const { return second(at::silu(first(x))); }

  EagerLinear first;
  EagerLinear second;
};

struct FeedForward {
  FeedForward(ParameterSource& from, const std::string& name)
      : up(from, name + ".net.0.proj"), down(from, name + ".net.2") {}

  at::Tensor operator()(const at::Tensor& x) const { return down(at::gelu(up(x), "tanh")); }

  EagerLinear up;
  EagerLinear down;
};

// Vectors [B, 1, width] of the conditioning.
struct Modulation {
  Modulation(ParameterSource& from, const std::string& name) : linear(from, name + ".linear") {}

  std::vector<at::Tensor> operator()(const at::Tensor& conditioning, int64_t parts) const {
    return linear(at::silu(conditioning)).unsqueeze(1).chunk(parts, -1);
  }

  EagerLinear linear;
};

// [B] -> [B, 256] float32: cosines, then sines.
at::Tensor sinusoid(const at::Tensor& value) {
  constexpr int64_t kHalf = kSinusoidWidth / 2;
  const at::Tensor places = at::arange(kHalf, at::kFloat);
  const at::Tensor frequencies = at::exp(-std::log(10000.0) * places / kHalf);
  const at::Tensor angles = value.to(at::kFloat).unsqueeze(1) * frequencies;
  return at::cat({angles.cos(), angles.sin()}, -1);
}

// For positions [S, 3]: tables [1, S, 1, head_dim].
EagerRope rope_tables(const at::Tensor& positions, const std::array<int64_t, 3>& axes) {
  std::vector<at::Tensor> angles;
  for (size_t axis = 0; axis < axes.size(); ++axis) {
    const at::Tensor pairs = at::arange(0, axes[axis], 2, at::kDouble);
    const at::Tensor frequencies = at::pow(kRopeTheta, -(pairs / axes[axis]));
    const at::Tensor along = positions.select(1, static_cast<int64_t>(axis)).to(at::kDouble);
    angles.push_back(at::outer(along, frequencies));
  }
  const at::Tensor table = at::cat(angles, -1).repeat_interleave(2, -1);
  const auto broadcast = [](const at::Tensor& t) {
    return t.to(at::kFloat).unsqueeze(0).unsqueeze(2);
  };
  return {broadcast(table.cos()), broadcast(table.sin())};
}

// [B, S, heads, head_dim] three times -> [B, S, heads * head_dim].
at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  return at::scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
      .transpose(1, 2)
      .flatten(2);
}

at::Tensor split_heads(const at::Tensor& x, int64_t head_dim) {
  return x.unflatten(-1, {-1, head_dim});
}

// q, k and v of one stream as [B, S, heads, head_dim], q and k normalised.
struct Projections {
  at::Tensor q, k, v;
};

struct StreamAttention {
  StreamAttention(ParameterSource& from, const std::array<std::string, 5>& names, int64_t head_dim)
      : to_q(from, names[0]),
        to_k(from, names[1]),
        to_v(from, names[2]),
        norm_q(from, names[3]),
        norm_k(from, names[4]),
        head_dim(head_dim) {}

  Projections operator()(const at::Tensor& x) const {
    return {norm_q(split_heads(to_q(x), head_dim)), norm_k(split_heads(to_k(x), head_dim)),
            split_heads(to_v(x), head_dim)};
  }

  EagerLinear to_q, to_k, to_v;
  HeadNorm norm_q, norm_k;
  int64_t head_dim;
};

std::array<std::string, 5> image_names(const std::string& attention) {
  return {attention + ".to_q", attention + ".to_k", attention + ".to_v", attention + ".norm_q",
          attention + ".norm_k"};
}

std::array<std::string, 5> text_names(const std::string& attention) {
  return {attention + ".add_q_proj", attention + ".add_k_proj", attention + ".add_v_proj",
          attention + ".norm_added_q", attention + ".norm_added_k"};
}

// The two streams between blocks.
struct Streams {
  at::Tensor image;
  at::Tensor text;
};

struct DoubleBlock {
  DoubleBlock(ParameterSource& from, const std::string& name, int64_t head_dim)
      : norm(from, name + ".norm1"),
        text_norm(from, name + ".norm1_context"),
        attention(from, image_names(name + ".attn"), head_dim),
        text_attention(from, text_names(name + ".attn"), head_dim),
        to_out(from, name + ".attn.to_out.0"),
        to_text_out(from, name + ".attn.to_add_out"),
        feed_forward(from, name + ".ff"),
        text_feed_forward(from, name + ".ff_context") {}

  // Of the normalised streams.
  Streams attend_jointly(const at::Tensor& image, const at::Tensor& text,
                         const EagerRope& rope) const {
    const Projections of_text = text_attention(text);
    const Projections of_image = attention(image);
    const at::Tensor q = at::cat({of_text.q, of_image.q}, 1);
    const at::Tensor k = at::cat({of_text.k, of_image.k}, 1);
    const at::Tensor v = at::cat({of_text.v, of_image.v}, 1);
    const auto parts = attend(eager_rotate(q, rope), eager_rotate(k, rope), v)
                           .split_with_sizes({text.size(1), image.size(1)}, 1);
    return {to_out(parts[1].contiguous()), to_text_out(parts[0].contiguous())};
  }

  Streams operator()(Streams x, const at::Tensor& conditioning, const EagerRope& rope) const {
    // Shift, scale and gate of the attention, then of the feed-forward.
    const auto m = norm(conditioning, 6);
    const auto t = text_norm(conditioning, 6);
    const Streams attended = attend_jointly(eager_modulated(x.image, m[0], m[1]),
                                            eager_modulated(x.text, t[0], t[1]), rope);
    x.image = x.image + m[2] * attended.image;
    x.image = x.image + m[5] * feed_forward(eager_modulated(x.image, m[3], m[4]));
    x.text = x.text + t[2] * attended.text;
    x.text = x.text + t[5] * text_feed_forward(eager_modulated(x.text, t[3], t[4]));
    return x;
  }

  Modulation norm, text_norm;
  StreamAttention attention, text_attention;
  EagerLinear to_out, to_text_out;
  FeedForward feed_forward, text_feed_forward;
};

struct SingleBlock {
  SingleBlock(ParameterSource& from, const std::string& name, int64_t head_dim)
      : norm(from, name + ".norm"),
        attention(from, image_names(name + ".attn"), head_dim),
        proj_mlp(from, name + ".proj_mlp"),
        proj_out(from, name + ".proj_out") {}

  Streams operator()(const Streams& streams, const at::Tensor& conditioning,
                     const EagerRope& rope) const {
    // diffusers joins and parts the streams in every single block; so do we.
    at::Tensor x = at::cat({streams.text, streams.image}, 1);
    const auto m = norm(conditioning, 3);
    const at::Tensor normed = eager_modulated(x, m[0], m[1]);
    const at::Tensor mlp = at::gelu(proj_mlp(normed), "tanh");
    const Projections p = attention(normed);
    const at::Tensor attended = attend(eager_rotate(p.q, rope), eager_rotate(p.k, rope), p.v);
    x = x + m[2] * proj_out(at::cat({attended, mlp}, 2));
    const int64_t text_tokens = streams.text.size(1);
    return {x.slice(1, text_tokens), x.slice(1, 0, text_tokens)};
  }

  Modulation norm;
  StreamAttention attention;
  EagerLinear proj_mlp, proj_out;
};

}  // namespace

struct EagerFlux::Modules {
  Modules(ParameterSource& from, const EagerFluxShape& of, at::ScalarType type)
      : shape(of),
        dtype(type),
        time(from, "time_text_embed.timestep_embedder"),
        pooled(from, "time_text_embed.text_embedder"),
        context(from, "context_embedder"),
        embedder(from, "x_embedder"),
        norm_out(from, "norm_out"),
        proj_out(from, "proj_out") {
    if (of.guidance) guidance.emplace_back(from, "time_text_embed.guidance_embedder");
    for (int64_t i = 0; i < of.double_blocks; ++i) {
      doubles.emplace_back(from, "transformer_blocks." + std::to_string(i), of.head_dim);
    }
    for (int64_t i = 0; i < of.single_blocks; ++i) {
      singles.emplace_back(from, "single_transformer_blocks." + std::to_string(i), of.head_dim);
    }
    from.expect_all_taken();
  }

  EagerFluxShape shape;
  at::ScalarType dtype;
  TwoLinears time, pooled;
  std::vector<TwoLinears> guidance;  // none or one
  EagerLinear context, embedder;
  std::vector<DoubleBlock> doubles;
  std::vector<SingleBlock> singles;
  Modulation norm_out;
  EagerLinear proj_out;
};

EagerFlux::EagerFlux(const std::string& path, const EagerFluxShape& shape, at::ScalarType dtype) {
  ParameterSource source(path, dtype);
  modules_ = std::make_unique<const Modules>(source, shape, dtype);
}

EagerFlux::~EagerFlux() = default;

at::ScalarType EagerFlux::dtype() const { return modules_->dtype; }

at::Tensor EagerFlux::forward(const Inputs& inputs) const {
  const Modules& m = *modules_;
  // Rounded to the model's type before the multiplication, as diffusers does.
  const auto embedded_time = [&](const TwoLinears& embedder, const at::Tensor& value) {
    return embedder(sinusoid(value.to(m.dtype) * 1000).to(m.dtype));
  };
  Streams x;
  x.image = m.embedder(inputs.tokens);
  at::Tensor conditioning = embedded_time(m.time, inputs.sigma);
  for (const TwoLinears& guidance : m.guidance) {
    conditioning = conditioning + embedded_time(guidance, inputs.guidance);
  }
  conditioning = conditioning + m.pooled(inputs.pooled);
  x.text = m.context(inputs.prompt);
  // Text tokens stand at position 0.
  const at::Tensor text_positions = inputs.positions.new_zeros({x.text.size(1), 3});
  const EagerRope rope =
      rope_tables(at::cat({text_positions, inputs.positions}), m.shape.rope_axes);
  for (const DoubleBlock& block : m.doubles) x = block(std::move(x), conditioning, rope);
  for (const SingleBlock& block : m.singles) x = block(x, conditioning, rope);
  // Unlike everywhere else the last layer's scale comes before its shift.
  const auto last = m.norm_out(conditioning, 2);
  return m.proj_out(eager_modulated(x.image, last[1], last[0]));
}

at::Tensor eager_rotate(const at::Tensor& x, const EagerRope& rope) {
  const auto parts = x.unflatten(-1, {-1, 2}).unbind(-1);
  const at::Tensor turned = at::stack({-parts[1], parts[0]}, -1).flatten(-2);
  return (x.to(at::kFloat) * rope.cos + turned.to(at::kFloat) * rope.sin).to(x.scalar_type());
}

at::Tensor eager_modulated(const at::Tensor& x, const at::Tensor& shift, const at::Tensor& scale) {
  return at::layer_norm(x, {x.size(-1)}, {}, {}, kEpsilon) * (1 + scale) + shift;
}

at::Tensor grid_positions(int64_t rows, int64_t columns) {
  const auto grid =
      at::meshgrid({at::arange(rows, at::kFloat), at::arange(columns, at::kFloat)}, "ij");
  return at::stack({at::zeros_like(grid[0]), grid[0], grid[1]}, -1).flatten(0, 1);
}

}  // namespace jitflux::bench
