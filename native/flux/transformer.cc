// forward(): the blocks. One joint residual buffer [B, S, d] with S = T + M, text rows first, so
// that nothing is ever concatenated; a stream is a range of rows.
#include "flux/transformer.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <vector>

#include "flux/activation.h"
#include "flux/attention.h"
#include "runtime/counters.h"
#include "runtime/parallel.h"

namespace jitflux {

namespace {

constexpr float kEps = 1e-6f;

// Rows that go through several kernels in turn while they are in the first-level cache.
constexpr int64_t kStrip = 4;

// A contiguous range of rows of a [rows, width] buffer.
struct Rows {
  int64_t begin;
  int64_t count;
};

at::Tensor rows_of(const at::Tensor& x, Rows rows) { return x.narrow(0, rows.begin, rows.count); }

// Calls f(first row, row count, scratch of strip rows x `scratch_width`) for strips of [0, rows).
template <typename T, typename F>
void parallel_strips(int64_t rows, int64_t cost, int64_t scratch_width, const F& f) {
  parallel_rows(rows, cost, [&](int64_t begin, int64_t end) {
    std::vector<KernelType<T>> scratch(static_cast<size_t>(kStrip * scratch_width));
    for (int64_t row = begin; row < end; row += kStrip) {
      f(row, std::min(kStrip, end - row), scratch.data());
    }
  });
}

// A layer's input as the kernels write it.
template <typename T>
struct InputRows {
  int64_t width;
  KernelType<T>* values = nullptr;  // or
  uint8_t* bytes = nullptr;
  float* row_scale = nullptr;

  explicit InputRows(const LayerInput& input) : width(input.values.size(1)) {
    if (input.row_scale.defined()) {
      bytes = input.values.mutable_data_ptr<uint8_t>();
      row_scale = input.row_scale.mutable_data_ptr<float>();
    } else {
      values = data<T>(input.values);
    }
  }

  // Where a kernel shall write rows of the model's type: in place, or first into `scratch`.
  KernelType<T>* target(int64_t row, KernelType<T>* scratch) const {
    return values != nullptr ? values + row * width : scratch;
  }
  // Afterwards: quantises what was written into `scratch`.
  void finish(int64_t row, int64_t count, const KernelType<T>* scratch) const {
    if (values != nullptr) return;
    row_kernels<T>().quantize_rows(scratch, width, bytes + row * width, row_scale + row, count,
                                   width, kByteOffset, kByteLevels);
  }
  int64_t scratch_width() const { return values != nullptr ? 0 : width; }
};

}  // namespace

// Shift and scale of an adaptive layer norm, [d] float32 each; null: none follows.
struct FluxTransformer::AdaNorm {
  const float* shift = nullptr;
  const float* scale = nullptr;
};

struct FluxTransformer::Pass {
  int64_t images;
  int64_t text_tokens;   // T
  int64_t image_tokens;  // M
  const jit::TokenLists* anchors;
  bool gather;
  const RopeTable* rope;
  const Conditioning* conditioning;
  const std::vector<int64_t>* steps;  // per image
  at::ScalarType dtype;

  int64_t sequence() const { return text_tokens + image_tokens; }
  int64_t rows() const { return images * sequence(); }
  AttentionShape attention(const FluxConfig& config) const {
    return {images, sequence(), config.heads, config.head_dim};
  }
  Rows text_rows(int64_t image) const { return {image * sequence(), text_tokens}; }
  Rows image_rows(int64_t image) const { return {image * sequence() + text_tokens, image_tokens}; }
  Rows all_rows(int64_t image) const { return {image * sequence(), sequence()}; }

  // Vector `part` of a modulation [S, B, parts, d] for one image.
  const float* modulation(const at::Tensor& of, int64_t image, int64_t part) const {
    const int64_t d = of.size(3);
    return of.const_data_ptr<float>() +
           (((*steps)[image] * of.size(1) + image) * of.size(2) + part) * d;
  }

  // The norm at the start of block `index` of double blocks, then single blocks, then the final
  // layer, which leaves the text tokens out.
  AdaNorm norm_before(size_t index, int64_t image, bool text) const {
    const auto at_start = [&](const at::Tensor& of) {
      return AdaNorm{modulation(of, image, 0), modulation(of, image, 1)};
    };
    const Conditioning& c = *conditioning;
    const size_t doubles = c.image_stream.size();
    if (index < doubles) return at_start(text ? c.text_stream[index] : c.image_stream[index]);
    if (index < doubles + c.single_stream.size()) return at_start(c.single_stream[index - doubles]);
    if (text) return {};
    return {modulation(c.final_layer, image, 1), modulation(c.final_layer, image, 0)};
  }
};

namespace {

// out = layer_norm(x) modulated, row by row. x and out: equally many rows.
template <typename T, typename AdaNormT>
void layer_norm_modulate(const at::Tensor& x, AdaNormT norm, const LayerInput& out) {
  count(Counter::kLayerNormModulate);
  const int64_t d = x.size(1);
  const InputRows<T> to(out);
  const auto* src = data<T>(x);
  parallel_strips<T>(x.size(0), 4 * d, to.scratch_width(),
                     [&](int64_t row, int64_t rows, KernelType<T>* scratch) {
                       row_kernels<T>().layer_norm_modulate(src + row * d, norm.shift, norm.scale,
                                                            to.target(row, scratch), rows, d, kEps);
                       to.finish(row, rows, scratch);
                     });
}

// x += gate * y, and the norm that follows, while the rows are in the cache.
template <typename T, typename AdaNormT>
void gated_residual(const at::Tensor& x, const LayerOutput& y, const float* gate, AdaNormT norm,
                    const LayerInput& out) {
  const bool normed = norm.shift != nullptr;
  count(normed ? Counter::kGatedResidualLayerNormModulate : Counter::kGatedResidual);
  const int64_t d = x.size(1);
  const InputRows<T> to(out);
  auto* residual = data<T>(x);
  const auto* src = const_data<T>(y.values);
  const int64_t scratch_width = normed ? to.scratch_width() : 0;
  parallel_strips<T>(x.size(0), 6 * d, scratch_width,
                     [&](int64_t row, int64_t rows, KernelType<T>* scratch) {
                       auto* strip = residual + row * d;
                       const auto& kernels = row_kernels<T>();
                       kernels.gated_residual(strip, src + row * d, y.rescale(row), gate, rows, d);
                       if (!normed) return;
                       kernels.layer_norm_modulate(strip, norm.shift, norm.scale,
                                                   to.target(row, scratch), rows, d, kEps);
                       to.finish(row, rows, scratch);
                     });
}

// out[:, :prefix width] = prefix, if there is one; the rest = gelu(src[:, src_column:]).
template <typename T>
void gelu(const LayerOutput& src, int64_t src_column, const at::Tensor& prefix,
          const LayerInput& out) {
  count(Counter::kGelu);
  const int64_t src_stride = src.values.size(1);
  const int64_t width = src_stride - src_column;
  const InputRows<T> to(out);
  const int64_t begin = to.width - width;
  const auto* from = const_data<T>(src.values) + src_column;
  const auto* copied = prefix.defined() ? const_data<T>(prefix) : nullptr;
  parallel_strips<T>(src.values.size(0), 4 * width, to.scratch_width(),
                     [&](int64_t row, int64_t rows, KernelType<T>* scratch) {
                       auto* strip = to.target(row, scratch);
                       for (int64_t r = 0; copied != nullptr && r < rows; ++r) {
                         std::copy_n(copied + (row + r) * begin, begin, strip + r * to.width);
                       }
                       row_kernels<T>().gelu_tanh(from + row * src_stride, src_stride,
                                                  src.rescale(row, src_column), strip + begin,
                                                  to.width, rows, width);
                       to.finish(row, rows, scratch);
                     });
}

// Rows as bytes.
template <typename T>
void quantize(const at::Tensor& x, const LayerInput& out) {
  count(Counter::kQuantizeRows);
  const InputRows<T> to(out);
  const auto* src = const_data<T>(x);
  parallel_rows(x.size(0), 2 * to.width, [&](int64_t begin, int64_t end) {
    to.finish(begin, end - begin, src + begin * to.width);
  });
}

// q/k RMSNorm + RoPE of `qkv`, the projections of `rows`, into these rows of the joint q, k, v
// buffers. Text rows are not rotated.
template <typename T, typename PassT>
void norm_and_rotate(const FluxConfig& config, const LayerOutput& qkv, const at::Tensor& q,
                     const at::Tensor& k, const at::Tensor& v, const at::Tensor& q_norm,
                     const at::Tensor& k_norm, Rows rows, int64_t image, bool rotate,
                     const PassT& pass) {
  count(Counter::kQkNormRope);
  const int64_t stride = qkv.values.size(1);
  const int64_t d = config.hidden();
  const float* cos = rotate ? pass.rope->cos.template const_data_ptr<float>() : nullptr;
  const float* sin = rotate ? pass.rope->sin.template const_data_ptr<float>() : nullptr;
  const int32_t* positions = rotate && !pass.anchors->empty() ? pass.anchors->of(image) : nullptr;
  const float* q_weight = q_norm.const_data_ptr<float>();
  const float* k_weight = k_norm.const_data_ptr<float>();
  const auto* src = const_data<T>(qkv.values);
  auto* q_out = data<T>(q) + rows.begin * d;
  auto* k_out = data<T>(k) + rows.begin * d;
  auto* v_out = data<T>(v) + rows.begin * d;
  parallel_rows(rows.count, 6 * d, [&](int64_t begin, int64_t end) {
    row_kernels<T>().qk_norm_rope(src + begin * stride, stride, qkv.rescale(begin), q_weight,
                                  k_weight, cos, sin, positions, begin, q_out + begin * d,
                                  k_out + begin * d, v_out + begin * d, end - begin, config.heads,
                                  config.head_dim, kEps);
  });
}

}  // namespace

const RopeTable& FluxTransformer::rope_for(const jit::Grid& grid) {
  if (rope_.grid.rows != grid.rows || rope_.grid.cols != grid.cols) {
    rope_ = make_rope_table(grid, config_.rope_axes);
  }
  return rope_;
}

LayerInput FluxTransformer::norm_target(size_t block, const Pass& pass) {
  const int64_t rows = pass.rows();
  // The final layer's weights are not quantised.
  if (!int8() || block == blocks()) {
    return {workspace_.view(Workspace::kNormed, {rows, config_.hidden()}, pass.dtype), {}};
  }
  return {workspace_.view(Workspace::kQuantized, {rows, config_.hidden()}, at::kByte),
          workspace_.view(Workspace::kRowScale, {rows}, at::kFloat)};
}

// In: the normed rows of both streams in norm_target(index). Out: those of the next block.
template <typename T>
void FluxTransformer::run_double_block(size_t index, const Pass& pass) {
  DoubleBlock& block = double_blocks_[index];
  const int64_t d = config_.hidden();
  const auto buffer = [&](Workspace::Slot slot) {
    return workspace_.view(slot, {pass.rows(), d}, pass.dtype);
  };
  const at::Tensor x = buffer(Workspace::kResidual);
  const at::Tensor q = buffer(Workspace::kQuery);
  const at::Tensor k = buffer(Workspace::kKey);
  const at::Tensor v = buffer(Workspace::kValue);
  const at::Tensor attended = buffer(Workspace::kAttended);
  const LayerInput h = norm_target(index, pass);
  const LayerInput next = norm_target(index + 1, pass);

  // Calls f(stream, its modulation, image, its rows, whether it is text) for every image.
  const auto each_stream = [&](const auto& f) {
    for (int64_t b = 0; b < pass.images; ++b) {
      f(block.text, pass.conditioning->text_stream[index], b, pass.text_rows(b), true);
      f(block.image, pass.conditioning->image_stream[index], b, pass.image_rows(b), false);
    }
  };

  each_stream([&](Stream& stream, const at::Tensor&, int64_t b, Rows rows, bool text) {
    norm_and_rotate<T>(config_, stream.qkv(h.rows(rows.begin, rows.count)), q, k, v, stream.q_norm,
                       stream.k_norm, rows, b, !text, pass);
  });
  joint_attention(q, k, v, attended, pass.attention(config_), workspace_);
  LayerInput attention_out{attended, {}};
  if (int8()) {
    attention_out = h;  // whose rows have been used
    quantize<T>(attended, attention_out);
  }
  each_stream([&](Stream& stream, const at::Tensor& modulation, int64_t b, Rows rows, bool text) {
    const at::Tensor residual = rows_of(x, rows);
    const LayerInput normed = h.rows(rows.begin, rows.count);
    gated_residual<T>(residual, stream.out(attention_out.rows(rows.begin, rows.count)),
                      pass.modulation(modulation, b, 2),
                      AdaNorm{pass.modulation(modulation, b, 3), pass.modulation(modulation, b, 4)},
                      normed);
    LayerInput hidden;
    if (int8()) {
      const int64_t mlp = config_.mlp();
      hidden = {workspace_.view(Workspace::kQuantizedWide, {rows.count, mlp}, at::kByte),
                workspace_.view(Workspace::kRowScaleWide, {rows.count}, at::kFloat)};
      gelu<T>(stream.mlp_in(normed), 0, {}, hidden);
    } else {
      hidden.values = stream.mlp_in(normed, PostOp::kGeluTanh).values;
    }
    gated_residual<T>(residual, stream.mlp_out(hidden), pass.modulation(modulation, b, 5),
                      pass.norm_before(index + 1, b, text), next.rows(rows.begin, rows.count));
  });
}

// As run_double_block; `index` counts the double blocks too.
template <typename T>
void FluxTransformer::run_single_block(size_t index, const Pass& pass) {
  const size_t single = index - double_blocks_.size();
  SingleBlock& block = single_blocks_[single];
  const at::Tensor& modulation = pass.conditioning->single_stream[single];
  const int64_t total = pass.rows();
  const int64_t d = config_.hidden();
  const int64_t wide = d + config_.mlp();
  const auto buffer = [&](Workspace::Slot slot, int64_t width) {
    return workspace_.view(slot, {total, width}, pass.dtype);
  };
  const at::Tensor x = buffer(Workspace::kResidual, d);
  const at::Tensor q = buffer(Workspace::kQuery, d);
  const at::Tensor k = buffer(Workspace::kKey, d);
  const at::Tensor v = buffer(Workspace::kValue, d);
  const LayerInput next = norm_target(index + 1, pass);

  const LayerOutput projected = block.in(norm_target(index, pass));  // [q | k | v | mlp]
  for (int64_t b = 0; b < pass.images; ++b) {
    for (const bool text : {true, false}) {
      const Rows rows = text ? pass.text_rows(b) : pass.image_rows(b);
      norm_and_rotate<T>(config_, projected.rows(rows.begin, rows.count), q, k, v, block.q_norm,
                         block.k_norm, rows, b, !text, pass);
    }
  }
  // The second layer's input: attention's result beside the activated MLP part.
  LayerInput concat;
  if (int8()) {
    const at::Tensor attended = buffer(Workspace::kAttended, d);
    joint_attention(q, k, v, attended, pass.attention(config_), workspace_);
    concat = {workspace_.view(Workspace::kQuantizedWide, {total, wide}, at::kByte),
              workspace_.view(Workspace::kRowScaleWide, {total}, at::kFloat)};
    gelu<T>(projected, 3 * d, attended, concat);
  } else {
    concat.values = buffer(Workspace::kConcat, wide);
    joint_attention(q, k, v, concat.values.narrow(1, 0, d), pass.attention(config_), workspace_);
    gelu<T>(projected, 3 * d, {}, concat);
  }
  const LayerOutput y = block.out(concat);
  for (int64_t b = 0; b < pass.images; ++b) {
    const float* gate = pass.modulation(modulation, b, 2);
    for (const bool text : {true, false}) {
      const Rows rows = text ? pass.text_rows(b) : pass.image_rows(b);
      gated_residual<T>(rows_of(x, rows), y.rows(rows.begin, rows.count), gate,
                        pass.norm_before(index + 1, b, text), next.rows(rows.begin, rows.count));
    }
  }
}

template <typename T>
void FluxTransformer::run(const at::Tensor& latents, const at::Tensor& velocity, const Pass& pass,
                          const Job& job) {
  const int64_t d = config_.hidden();
  const int64_t channels = config_.in_channels;
  const at::Tensor x = workspace_.view(Workspace::kResidual, {pass.rows(), d}, pass.dtype);
  const LayerInput h = norm_target(0, pass);
  for (int64_t b = 0; b < pass.images; ++b) {
    const Rows text = pass.text_rows(b);
    const Rows image = pass.image_rows(b);
    rows_of(x, text).copy_(pass.conditioning->text[b]);
    count(Counter::kGatherEmbed);
    const float* from = latents.const_data_ptr<float>() + b * latents.size(1) * channels;
    const int32_t* positions = pass.gather ? pass.anchors->of(b) : nullptr;
    const float* weight = image_in_.weight.const_data_ptr<float>();
    const float* bias = image_in_.bias.const_data_ptr<float>();
    auto* to = data<T>(x) + image.begin * d;
    parallel_rows(image.count, channels * d / 16, [&](int64_t begin, int64_t end) {
      row_kernels<T>().gather_embed(from, positions, begin, weight, bias, to + begin * d,
                                    end - begin, channels, d);
    });
    layer_norm_modulate<T>(rows_of(x, text), pass.norm_before(0, b, true),
                           h.rows(text.begin, text.count));
    layer_norm_modulate<T>(rows_of(x, image), pass.norm_before(0, b, false),
                           h.rows(image.begin, image.count));
  }
  const auto progress = [&](size_t done, const char* kind) {
    job.checkpoint();
    if (job.progress) job.progress(done, blocks(), kind);
  };
  for (size_t i = 0; i < blocks(); ++i) {
    const bool is_double = i < double_blocks_.size();
    progress(i, is_double ? "double block" : "single block");
    if (is_double) {
      run_double_block<T>(i, pass);
    } else {
      run_single_block<T>(i, pass);
    }
  }
  progress(blocks(), "final layer");
  const LayerInput normed = norm_target(blocks(), pass);
  for (int64_t b = 0; b < pass.images; ++b) {
    const Rows rows = pass.image_rows(b);
    count(Counter::kLinearPlain);
    velocity[b].copy_(final_out_(rows_of(normed.values, rows)));  // widens to float32
  }
}

at::Tensor FluxTransformer::forward(const at::Tensor& latents, bool gather,
                                    const jit::TokenLists& anchors, const jit::Grid& grid,
                                    const Conditioning& conditioning,
                                    const std::vector<int64_t>& steps, const Job& job) {
  const int64_t images = latents.size(0);
  const int64_t image_tokens = gather ? anchors.count : latents.size(1);
  const Pass pass{images,        conditioning.text_tokens, image_tokens,  &anchors,
                  gather,        &rope_for(grid),          &conditioning, &steps,
                  options_.dtype};
  // The result leaves the engine; everything else goes back into the arena.
  at::Tensor velocity = at::empty({images, image_tokens, config_.out_channels}, latents.options());
  const MemoryArena::Scope scope(&arena_);
  if (options_.dtype == at::kBFloat16) {
    run<at::BFloat16>(latents, velocity, pass, job);
  } else {
    run<float>(latents, velocity, pass, job);
  }
  return velocity;
}

}  // namespace jitflux
