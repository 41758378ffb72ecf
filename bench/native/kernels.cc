// Each CPU kernel alone against the ATen operators that eager PyTorch (diffusers, the released JiT
// code) runs for the same result. Ours write into buffers that exist, as the engine has them in its
// workspace; the references allocate their results (see Options::fresh_memory). Bytes are those
// that must move whoever does it, so the reference's GB/s is what it makes of them, not what it
// moves.
#include <ATen/TensorOperators.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/reflection_pad2d.h>
#include <ATen/ops/rms_norm.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include "eager_flux.h"
#include "eager_jit.h"
#include "jit/euler_step.h"
#include "jit/gather.h"
#include "jit/importance.h"
#include "jit/lifter.h"
#include "layers/activation.h"
#include "layers/token_passes.h"
#include "runtime/parallel.h"
#include "sections.h"
#include "token_choice.h"

namespace jitflux::bench {

namespace {

constexpr const char* kOurs = "jit-flux";
constexpr const char* kEager = "ATen";

// Activations of a block.
struct RowShape {
  int64_t rows;
  int64_t heads;
  int64_t head_dim;
  std::array<int64_t, 3> rope_axes;

  int64_t width() const { return heads * head_dim; }
};

// One shape and type with the tensors that its rows share.
struct RowCase {
  RowShape shape;
  at::ScalarType dtype;
  at::Tensor x;       // [rows, width]
  at::Tensor y;       // [rows, width]
  at::Tensor out;     // [rows, width]
  at::Tensor first;   // [width] float32: shift, gate
  at::Tensor second;  // [width] float32: scale

  RowCase(const RowShape& of, at::ScalarType type)
      : shape(of),
        dtype(type),
        x(random_tensor({of.rows, of.width()}, type, 1)),
        y(random_tensor({of.rows, of.width()}, type, 2)),
        out(at::empty_like(x)),
        // Values that bfloat16 holds: the references have their vectors in the activations' type.
        first(random_tensor({of.width()}, at::kBFloat16, 3).to(at::kFloat)),
        second(random_tensor({of.width()}, at::kBFloat16, 4).to(at::kFloat)) {}

  Fields params() const {
    return {{"rows", shape.rows}, {"width", shape.width()}, {"dtype", dtype_name(dtype)}};
  }
  AdaNorm norm() const { return {first.const_data_ptr<float>(), second.const_data_ptr<float>()}; }
  // Of `passes` reads or writes of one activation.
  Work moving(double passes) const {
    return {.bytes = passes * static_cast<double>(x.numel() * x.element_size())};
  }
};

void compare_layer_norm_modulate(Report& report, const RowCase& c) {
  const at::Tensor shift = c.first.to(c.dtype);
  const at::Tensor scale = c.second.to(c.dtype);
  at::Tensor result;
  report.compare("layer_norm_modulate", c.params(), c.moving(2),
                 {kOurs,
                  [&] {
                    layer_norm_modulate(c.x, c.norm(), {c.out, {}});
                  }},
                 {kEager, [&] { result = eager_modulated(c.x, shift, scale); }},
                 [&] { return relative_difference(c.out, result); });
}

void compare_gated_residual(Report& report, const RowCase& c) {
  // In place, over and over: a small gate keeps the sum in range.
  const at::Tensor gate = c.first.mul(0x1p-8);
  const at::Tensor eager_gate = gate.to(c.dtype);
  const at::Tensor x = c.x.clone();
  const auto add_gated = [&] {
    gated_residual(x, {c.y, {}, {}}, gate.const_data_ptr<float>(), {}, {});
  };
  add_gated();
  const double difference = relative_difference(x, c.x + eager_gate * c.y);
  at::Tensor result;
  report.compare("gated_residual", c.params(), c.moving(3), {kOurs, add_gated},
                 {kEager, [&] { result = c.x + eager_gate * c.y; }}, [&] { return difference; });
}

void compare_gated_residual_layer_norm_modulate(Report& report, const RowCase& c) {
  const at::Tensor gate = c.first.mul(0x1p-8);
  const at::Tensor eager_gate = gate.to(c.dtype);
  const at::Tensor shift = c.first.to(c.dtype);
  const at::Tensor scale = c.second.to(c.dtype);
  const at::Tensor x = c.x.clone();
  at::Tensor sum, result;
  const auto eager = [&] {
    sum = c.x + eager_gate * c.y;
    result = eager_modulated(sum, shift, scale);
  };
  const auto ours = [&] {
    gated_residual(x, {c.y, {}, {}}, gate.const_data_ptr<float>(), c.norm(), {c.out, {}});
  };
  ours();
  eager();
  const double difference = relative_difference(c.out, result);
  report.compare("gated_residual_layer_norm_modulate", c.params(), c.moving(4), {kOurs, ours},
                 {kEager, eager}, [&] { return difference; });
}

void compare_qk_norm_rope(Report& report, const RowCase& c) {
  const RowShape& shape = c.shape;
  const at::Tensor qkv = random_tensor({shape.rows, 3 * shape.width()}, c.dtype, 5);
  const at::Tensor q_weight = c.first.narrow(0, 0, shape.head_dim).contiguous();
  const at::Tensor k_weight = c.second.narrow(0, 0, shape.head_dim).contiguous();
  const at::Tensor eager_q_weight = q_weight.to(c.dtype);
  const at::Tensor eager_k_weight = k_weight.to(c.dtype);
  const RopeTable table = make_rope_table({64, (shape.rows + 63) / 64}, shape.rope_axes);
  // Ours holds the rotation's sign in the table, in the first channel of every pair.
  const auto expand = [&](const at::Tensor& t) {
    return t.narrow(0, 0, shape.rows).slice(1, 1, std::nullopt, 2).repeat_interleave(2, 1);
  };
  const EagerRope rope = {expand(table.cos).unsqueeze(1), expand(table.sin).unsqueeze(1)};
  // Eager's projections are three matrices, ours is one.
  const auto part = [&](int64_t index) {
    return qkv.narrow(1, index * shape.width(), shape.width())
        .contiguous()
        .view({shape.rows, shape.heads, shape.head_dim});
  };
  const at::Tensor q = part(0);
  const at::Tensor k = part(1);
  const at::Tensor v = part(2);
  const at::Tensor q_out = at::empty_like(c.x);
  const at::Tensor k_out = at::empty_like(c.x);
  at::Tensor eager_q, eager_k, eager_v;
  Work work = c.moving(6);
  work.bytes += static_cast<double>(2 * shape.rows * shape.head_dim * sizeof(float));  // the tables
  report.compare(
      "qk_norm_rope", c.params(), work,
      {kOurs,
       [&] {
         qk_norm_rope({qkv, {}, {}}, q_weight, k_weight, {&table}, q_out, k_out, c.out);
       }},
      {kEager,
       [&] {
         eager_q = eager_rotate(at::rms_norm(q, {shape.head_dim}, eager_q_weight, kNormEps), rope);
         eager_k = eager_rotate(at::rms_norm(k, {shape.head_dim}, eager_k_weight, kNormEps), rope);
         eager_v = v.clone();  // its share of joining the two streams
       }},
      [&] {
        return std::max(relative_difference(q_out, eager_q.flatten(1)),
                        relative_difference(k_out, eager_k.flatten(1)));
      });
}

void compare_gelu_tanh(Report& report, const RowCase& c) {
  at::Tensor result;
  report.compare("gelu_tanh", c.params(), c.moving(2),
                 {kOurs,
                  [&] {
                    gelu({c.x, {}, {}}, 0, {}, {c.out, {}});
                  }},
                 {kEager, [&] { result = at::gelu(c.x, "tanh"); }},
                 [&] { return relative_difference(c.out, result); });
}

void compare_quantize_rows(Report& report, const RowCase& c) {
  const at::Tensor bytes = at::empty_like(c.x, at::kByte);
  const at::Tensor row_scale = at::empty({c.shape.rows}, at::kFloat);
  at::Tensor eager_bytes, eager_scale;
  const double out_bytes = static_cast<double>(c.x.numel() + row_scale.numel() * sizeof(float));
  report.compare("quantize_rows", c.params(), {.bytes = c.moving(1).bytes + out_bytes},
                 {kOurs,
                  [&] {
                    quantize(c.x, {bytes, row_scale});
                  }},
                 {kEager,
                  [&] {
                    eager_scale = c.x.abs().amax(1, true).to(at::kFloat).div_(127);
                    eager_bytes = c.x.div(eager_scale).round_().add_(128).to(at::kByte);
                  }},
                 // In steps of the quantisation: 1 at most, where both round the other way.
                 [&] { return 255 * relative_difference(bytes, eager_bytes); });
}

// As the autoencoder's group norm calls the kernel.
template <typename T>
void scale_shift_silu(const RowCase& c) {
  const int64_t d = c.shape.width();
  const auto* from = const_data<T>(c.x);
  auto* to = data<T>(c.out);
  parallel_rows(c.shape.rows, 4 * d, [&](int64_t begin, int64_t end) {
    row_kernels<T>().scale_shift_silu(from + begin * d, c.norm().scale, c.norm().shift,
                                      to + begin * d, end - begin, d);
  });
}

void compare_scale_shift_silu(Report& report, const RowCase& c) {
  const at::Tensor shift = c.first.to(c.dtype);
  const at::Tensor scale = c.second.to(c.dtype);
  at::Tensor result;
  report.compare("scale_shift_silu", c.params(), c.moving(2),
                 {kOurs,
                  [&] {
                    if (c.dtype == at::kBFloat16) {
                      scale_shift_silu<at::BFloat16>(c);
                    } else {
                      scale_shift_silu<float>(c);
                    }
                  }},
                 {kEager, [&] { result = at::silu(c.x * scale + shift); }},
                 [&] { return relative_difference(c.out, result); });
}

constexpr int64_t kChannels = 64;

// [1, N, C] as an image [1, C, rows, cols].
at::Tensor as_image(const at::Tensor& tokens, const Grid& grid) {
  return tokens.transpose(1, 2).reshape({1, kChannels, grid.rows, grid.cols});
}

at::Tensor index_tensor(const std::vector<int32_t>& values) {
  return at::tensor(at::ArrayRef<int32_t>(values)).to(at::kLong);
}

// A sparse step around the transformer: the anchors' latents out, their velocity lifted to the
// grid, the Euler step. The maps are made once per stage, on both sides.
void compare_sparse_step(Report& report, const Grid& grid, int64_t anchor_count) {
  const TokenLists anchors = choose_tokens(grid, anchor_count, 0).anchors;
  const jit::Lifter lifter(anchors.of(0), anchors.count, grid);
  const at::Tensor velocity = random_tensor({1, anchors.count, kChannels}, at::kFloat, 1);
  at::Tensor latents = random_tensor({1, grid.tokens(), kChannels}, at::kFloat, 2);
  at::Tensor eager_latents = latents.clone();
  constexpr double kStep = -1e-6;  // taken over and over
  jit::LifterCache cache;

  const at::Tensor anchor_index = index_tensor(anchors.tokens);
  const at::Tensor nearest = lifter.nearest.to(at::kLong);
  const int64_t radius = lifter.radius;
  const int64_t taps = 2 * radius + 1;
  // Separable, which is faster than the released code's square kernel.
  const at::Tensor taps_of_all = lifter.weights.repeat({kChannels, 1});
  const at::Tensor horizontal = taps_of_all.view({kChannels, 1, 1, taps});
  const at::Tensor vertical = taps_of_all.view({kChannels, 1, taps, 1});

  at::Tensor tokens, full, eager_tokens, eager_full;
  const double bytes =
      static_cast<double>(sizeof(float) * kChannels *
                          (2 * anchors.count +   // gather: read, write
                           anchors.count +       // velocity
                           3 * grid.tokens()));  // lifted velocity; latents read and written
  report.compare(
      "gather_lift_euler",
      {{"tokens", grid.tokens()}, {"anchors", anchors.count}, {"channels", kChannels}},
      {.bytes = bytes},
      {kOurs,
       [&] {
         tokens = jit::gather(latents, anchors);
         full = jit::euler_step(latents, velocity, anchors, grid, kStep, cache);
       }},
      {kEager,
       [&] {
         eager_tokens = eager_latents.index_select(1, anchor_index);
         const at::Tensor filled = as_image(velocity.index_select(1, nearest), grid);
         const at::Tensor padded = at::reflection_pad2d(filled, {radius, radius, radius, radius});
         const auto blur = [](const at::Tensor& x, const at::Tensor& weight) {
           return at::conv2d(x, weight, std::nullopt, at::IntArrayRef{1, 1}, at::IntArrayRef{0, 0},
                             at::IntArrayRef{1, 1}, kChannels);
         };
         eager_full = blur(blur(padded, horizontal), vertical).flatten(2).transpose(1, 2);
         eager_full = eager_full.index_copy(1, anchor_index, velocity);
         eager_latents.add_(eager_full, kStep);
       }},
      [&] { return relative_difference(full, eager_full); });
}

// The anchors' tokens embedded.
void compare_gather_embed(Report& report, const Grid& grid, int64_t anchor_count, int64_t width,
                          at::ScalarType dtype) {
  const TokenLists anchors = choose_tokens(grid, anchor_count, 0).anchors;
  const at::Tensor latents = random_tensor({grid.tokens(), kChannels}, at::kFloat, 1);
  const at::Tensor eager_weight = random_tensor({width, kChannels}, dtype, 2);
  const at::Tensor eager_bias = random_tensor({width}, dtype, 3);
  const LatentEmbedder embedder = LatentEmbedder::from({eager_weight, eager_bias});
  const at::Tensor out = at::empty({anchors.count, width}, dtype);
  const at::Tensor anchor_index = index_tensor(anchors.tokens);
  at::Tensor result;
  report.compare(
      "gather_embed",
      {{"anchors", anchors.count},
       {"channels", kChannels},
       {"width", width},
       {"dtype", dtype_name(dtype)}},
      {.flops = 2.0 * static_cast<double>(anchors.count * kChannels * width)},
      {kOurs,
       [&] {
         gather_embed(latents.const_data_ptr<float>(), anchors.tokens.data(), embedder, out);
       }},
      {kEager,
       [&] {
         result =
             at::linear(latents.index_select(0, anchor_index).to(dtype), eager_weight, eager_bias);
       }},
      [&] { return relative_difference(out, result); });
}

void compare_importance(Report& report, const Grid& grid) {
  const at::Tensor velocity = random_tensor({1, grid.tokens(), kChannels}, at::kFloat, 1);
  at::Tensor ours, eager;
  report.compare("importance", {{"tokens", grid.tokens()}, {"channels", kChannels}},
                 {.bytes = static_cast<double>(sizeof(float) * grid.tokens() * (kChannels + 1))},
                 {kOurs, [&] { ours = jit::importance(velocity, grid); }},
                 {kEager,
                  [&] {
                    eager = eager_importance(velocity, {grid.rows, grid.cols}).unsqueeze(0);
                  }},
                 [&] { return relative_difference(ours, eager); });
}

}  // namespace

void run_kernels(Report& report) {
  // FLUX.1-dev, 1024 x 1024 pixels.
  std::vector<RowShape> shapes = {{4608, 24, 128, {16, 56, 56}}};
  // A small model of as many image tokens: its activations fit into the caches.
  if (report.options().full()) shapes.push_back({4160, 8, 64, {8, 28, 28}});
  const bool smoke = report.options().smoke();
  if (smoke) shapes = {{80, 2, 64, {8, 28, 28}}};
  for (const RowShape& shape : shapes) {
    for (const auto dtype : {at::kFloat, at::kBFloat16}) {
      const RowCase c(shape, dtype);
      compare_layer_norm_modulate(report, c);
      compare_gated_residual(report, c);
      compare_gated_residual_layer_norm_modulate(report, c);
      compare_qk_norm_rope(report, c);
      compare_gelu_tanh(report, c);
      compare_quantize_rows(report, c);
      compare_scale_shift_silu(report, c);
    }
  }
  // The JiT operators' case: the tokens of a 1024 x 1024 image, and the anchors of two stages.
  const Grid grid = smoke ? Grid{16, 16} : Grid{64, 64};
  const std::vector<int64_t> stages =
      smoke ? std::vector<int64_t>{81, 153} : std::vector<int64_t>{1310, 2457};
  for (const int64_t anchors : stages) compare_sparse_step(report, grid, anchors);
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    compare_gather_embed(report, grid, stages[0], smoke ? 128 : 3072, dtype);
  }
  compare_importance(report, grid);
}

}  // namespace jitflux::bench
