// forward(): the blocks. One joint residual buffer [B, S, d] with S = T + M, text rows first, so
// that nothing is ever concatenated; a stream is a range of rows.
#include "flux/transformer.h"

#include <ATen/ops/empty.h>

#include "flux/activation.h"
#include "flux/attention.h"
#include "runtime/parallel.h"

namespace jitflux {

namespace {

constexpr float kEps = 1e-6f;

// A contiguous range of rows of a [rows, width] buffer, with the modulation vectors that apply to
// it.
struct Rows {
  int64_t begin;
  int64_t count;
};

at::Tensor rows_of(const at::Tensor& x, Rows rows) { return x.narrow(0, rows.begin, rows.count); }

// The row-wise wrappers below take contiguous 2-D views of equal height.

template <typename T>
void layer_norm_modulate(const at::Tensor& x, const at::Tensor& out, const float* shift,
                         const float* scale) {
  const int64_t d = x.size(1);
  const auto* src = data<T>(x);
  auto* dst = data<T>(out);
  parallel_rows(x.size(0), 4 * d, [&](int64_t begin, int64_t end) {
    row_kernels<T>().layer_norm_modulate(src + begin * d, shift, scale, dst + begin * d,
                                         end - begin, d, kEps);
  });
}

template <typename T>
void gated_residual(const at::Tensor& x, const at::Tensor& y, const float* gate) {
  const int64_t d = x.size(1);
  auto* dst = data<T>(x);
  const auto* src = data<T>(y);
  parallel_rows(x.size(0), 2 * d, [&](int64_t begin, int64_t end) {
    row_kernels<T>().gated_residual(dst + begin * d, src + begin * d, gate, end - begin, d);
  });
}

// dst[:, dst_column:] = gelu(src[:, src_column:]) over `width` columns of all rows.
template <typename T>
void gelu(const at::Tensor& src, int64_t src_column, const at::Tensor& dst, int64_t dst_column,
          int64_t width) {
  const int64_t src_stride = src.size(-1);
  const int64_t dst_stride = dst.size(-1);
  const auto* from = data<T>(src) + src_column;
  auto* to = data<T>(dst) + dst_column;
  parallel_rows(src.numel() / src_stride, 4 * width, [&](int64_t begin, int64_t end) {
    row_kernels<T>().gelu_tanh(from + begin * src_stride, src_stride, to + begin * dst_stride,
                               dst_stride, end - begin, width);
  });
}

}  // namespace

struct FluxTransformer::Pass {
  int64_t images;
  int64_t text_tokens;   // T
  int64_t image_tokens;  // M
  const jit::TokenLists* anchors;
  const RopeTable* rope;
  std::vector<int64_t> steps;  // per image
  at::ScalarType dtype;

  int64_t sequence() const { return text_tokens + image_tokens; }
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
           ((steps[image] * of.size(1) + image) * of.size(2) + part) * d;
  }
};

const RopeTable& FluxTransformer::rope_for(const jit::Grid& grid) {
  if (rope_.grid.rows != grid.rows || rope_.grid.cols != grid.cols) {
    rope_ = make_rope_table(grid, config_.rope_axes);
  }
  return rope_;
}

// q/k RMSNorm + RoPE of `qkv`, the projections of `rows`, into these rows of the joint q, k, v
// buffers. Text rows are not rotated.
template <typename T, typename PassT>
static void norm_and_rotate(const FluxConfig& config, const at::Tensor& qkv, const at::Tensor& q,
                            const at::Tensor& k, const at::Tensor& v, const at::Tensor& q_norm,
                            const at::Tensor& k_norm, Rows rows, int64_t image, bool rotate,
                            const PassT& pass) {
  const int64_t stride = qkv.size(-1);
  const int64_t d = config.hidden();
  const float* cos = rotate ? pass.rope->cos.template const_data_ptr<float>() : nullptr;
  const float* sin = rotate ? pass.rope->sin.template const_data_ptr<float>() : nullptr;
  const int32_t* positions = rotate && !pass.anchors->empty() ? pass.anchors->of(image) : nullptr;
  const float* q_weight = q_norm.const_data_ptr<float>();
  const float* k_weight = k_norm.const_data_ptr<float>();
  const auto* src = data<T>(qkv);
  auto* q_out = data<T>(q) + rows.begin * d;
  auto* k_out = data<T>(k) + rows.begin * d;
  auto* v_out = data<T>(v) + rows.begin * d;
  parallel_rows(rows.count, 6 * d, [&](int64_t begin, int64_t end) {
    row_kernels<T>().qk_norm_rope(src + begin * stride, stride, q_weight, k_weight, cos, sin,
                                  positions, begin, q_out + begin * d, k_out + begin * d,
                                  v_out + begin * d, end - begin, config.heads, config.head_dim,
                                  kEps);
  });
}

template <typename T>
void FluxTransformer::run_double_block(const DoubleBlock& block, const at::Tensor& text_modulation,
                                       const at::Tensor& image_modulation, const Pass& pass) {
  const int64_t total = pass.images * pass.sequence();
  const int64_t d = config_.hidden();
  const auto buffer = [&](Workspace::Slot slot, int64_t width) {
    return workspace_.view(slot, {total, width}, pass.dtype);
  };
  const at::Tensor x = buffer(Workspace::kResidual, d);
  const at::Tensor h = buffer(Workspace::kNormed, d);
  const at::Tensor q = buffer(Workspace::kQuery, d);
  const at::Tensor k = buffer(Workspace::kKey, d);
  const at::Tensor v = buffer(Workspace::kValue, d);

  // Calls f(stream, its modulation, image, its rows) for both streams of every image.
  const auto each_stream = [&](const auto& f) {
    for (int64_t b = 0; b < pass.images; ++b) {
      f(block.text, text_modulation, b, pass.text_rows(b), false);
      f(block.image, image_modulation, b, pass.image_rows(b), true);
    }
  };

  each_stream(
      [&](const Stream& stream, const at::Tensor& modulation, int64_t b, Rows rows, bool rotate) {
        const at::Tensor normed = rows_of(h, rows);
        layer_norm_modulate<T>(rows_of(x, rows), normed, pass.modulation(modulation, b, 0),
                               pass.modulation(modulation, b, 1));
        norm_and_rotate<T>(config_, stream.qkv(normed), q, k, v, stream.q_norm, stream.k_norm, rows,
                           b, rotate, pass);
      });
  const at::Tensor attended = buffer(Workspace::kAttended, d);
  joint_attention(q, k, v, attended, pass.attention(config_), workspace_);
  each_stream([&](const Stream& stream, const at::Tensor& modulation, int64_t b, Rows rows, bool) {
    const at::Tensor residual = rows_of(x, rows);
    const at::Tensor normed = rows_of(h, rows);
    gated_residual<T>(residual, stream.out(rows_of(attended, rows)),
                      pass.modulation(modulation, b, 2));
    layer_norm_modulate<T>(residual, normed, pass.modulation(modulation, b, 3),
                           pass.modulation(modulation, b, 4));
    gated_residual<T>(residual, stream.mlp_out(stream.mlp_in(normed, PostOp::kGeluTanh)),
                      pass.modulation(modulation, b, 5));
  });
}

template <typename T>
void FluxTransformer::run_single_block(const SingleBlock& block, const at::Tensor& modulation,
                                       const Pass& pass) {
  const int64_t total = pass.images * pass.sequence();
  const int64_t d = config_.hidden();
  const int64_t mlp = config_.mlp();
  const auto buffer = [&](Workspace::Slot slot, int64_t width) {
    return workspace_.view(slot, {total, width}, pass.dtype);
  };
  const at::Tensor x = buffer(Workspace::kResidual, d);
  const at::Tensor h = buffer(Workspace::kNormed, d);
  const at::Tensor concat = buffer(Workspace::kConcat, d + mlp);
  const at::Tensor q = buffer(Workspace::kQuery, d);
  const at::Tensor k = buffer(Workspace::kKey, d);
  const at::Tensor v = buffer(Workspace::kValue, d);

  for (int64_t b = 0; b < pass.images; ++b) {
    const Rows rows = pass.all_rows(b);
    layer_norm_modulate<T>(rows_of(x, rows), rows_of(h, rows), pass.modulation(modulation, b, 0),
                           pass.modulation(modulation, b, 1));
  }
  const at::Tensor wide = block.in(h);  // [q | k | v | mlp]
  for (int64_t b = 0; b < pass.images; ++b) {
    const Rows text = pass.text_rows(b);
    const Rows image = pass.image_rows(b);
    norm_and_rotate<T>(config_, rows_of(wide, text), q, k, v, block.q_norm, block.k_norm, text, b,
                       false, pass);
    norm_and_rotate<T>(config_, rows_of(wide, image), q, k, v, block.q_norm, block.k_norm, image, b,
                       true, pass);
  }
  joint_attention(q, k, v, concat.narrow(1, 0, d), pass.attention(config_), workspace_);
  gelu<T>(wide, 3 * d, concat, d, mlp);
  const at::Tensor projected = block.out(concat);
  for (int64_t b = 0; b < pass.images; ++b) {
    const Rows rows = pass.all_rows(b);
    gated_residual<T>(rows_of(x, rows), rows_of(projected, rows),
                      pass.modulation(modulation, b, 2));
  }
}

template <typename T>
at::Tensor FluxTransformer::run(const at::Tensor& tokens, const Conditioning& conditioning,
                                const Pass& pass, const Job& job) {
  const int64_t total = pass.images * pass.sequence();
  const int64_t d = config_.hidden();
  const at::Tensor x = workspace_.view(Workspace::kResidual, {total, d}, pass.dtype);
  const at::Tensor input = tokens.to(pass.dtype);
  for (int64_t b = 0; b < pass.images; ++b) {
    rows_of(x, pass.text_rows(b)).copy_(conditioning.text[b]);
    rows_of(x, pass.image_rows(b)).copy_(image_in_(input[b]));
  }
  const auto blocks = double_blocks_.size() + single_blocks_.size();
  const auto progress = [&](size_t done, const char* kind) {
    job.checkpoint();
    if (job.progress) job.progress(done, blocks, kind);
  };
  for (size_t i = 0; i < double_blocks_.size(); ++i) {
    progress(i, "double block");
    run_double_block<T>(double_blocks_[i], conditioning.text_stream[i],
                        conditioning.image_stream[i], pass);
  }
  for (size_t i = 0; i < single_blocks_.size(); ++i) {
    progress(double_blocks_.size() + i, "single block");
    run_single_block<T>(single_blocks_[i], conditioning.single_stream[i], pass);
  }
  progress(blocks, "final layer");

  const at::Tensor h = workspace_.view(Workspace::kNormed, {total, d}, pass.dtype);
  at::Tensor velocity =
      at::empty({pass.images, pass.image_tokens, config_.out_channels}, tokens.options());
  for (int64_t b = 0; b < pass.images; ++b) {
    const Rows rows = pass.image_rows(b);
    const at::Tensor normed = rows_of(h, rows);
    layer_norm_modulate<T>(rows_of(x, rows), normed,
                           pass.modulation(conditioning.final_layer, b, 1),
                           pass.modulation(conditioning.final_layer, b, 0));
    velocity[b].copy_(final_out_(normed));  // widens to float32
  }
  return velocity;
}

at::Tensor FluxTransformer::forward(const at::Tensor& tokens, const jit::TokenLists& anchors,
                                    const jit::Grid& grid, const Conditioning& conditioning,
                                    const std::vector<int64_t>& steps, const Job& job) {
  const Pass pass{tokens.size(0), conditioning.text_tokens, tokens.size(1),
                  &anchors,       &rope_for(grid),          steps,
                  options_.dtype};
  if (options_.dtype == at::kBFloat16) return run<at::BFloat16>(tokens, conditioning, pass, job);
  return run<float>(tokens, conditioning, pass, job);
}

}  // namespace jitflux
