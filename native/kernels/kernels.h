// CPU kernels behind one table of function pointers, one table per instruction set. The .cc files
// in cpu/ are compiled once per instruction set (cmake/CpuKernels.cmake) and know neither LibTorch
// nor threads: callers split rows over threads with runtime/parallel.h.
//
// Numerical contract of every kernel: inputs and outputs in T (float or bfloat16 stored as
// uint16_t), arithmetic and statistics in float32, one rounding to T at the end. Row strides are in
// elements. "Source" names the operation in diffusers (or the paper) that a kernel stands for.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace jitflux::kernels {

using BFloat16Bits = uint16_t;

// What is still to be done to a layer's integer products: value = y * row_scale[row] +
// bias[column], or without the bias where a kernel says that there is none. Null row_scale: y is
// the value already.
struct Rescale {
  const float* row_scale = nullptr;
  const float* bias = nullptr;
};

constexpr int64_t kRescaledMaxHeadDim = 1024;  // of qk_norm_rope with a Rescale
constexpr int64_t kEmbedColumns = 64;          // of gather_embed's weight blocks
constexpr int64_t kEmbedMaxChannels = 512;

// RMSNorm and rotation of q and k, v copied: q = rope(rms_norm(q) * q_weight), k likewise.
// Neighbouring channels form a pair, (a, b) -> (a cos - b sin, b cos + a sin), so `cos` holds every
// value twice and `sin` holds (-sin, sin). Source: diffusers' FluxAttnProcessor (norm_q, norm_k,
// apply_rotary_emb with use_real_unbind_dim = -1).
template <typename T>
struct QkNormRope {
  const T* qkv;           // rows of [q | k | v | ...], each part heads * head_dim wide
  int64_t qkv_stride;     // elements from row to row
  Rescale rescale = {};   // of qkv; head_dim is at most kRescaledMaxHeadDim then
  const float* q_weight;  // [head_dim]
  const float* k_weight;  // [head_dim]
  // Tables of [positions, head_dim]; null: no rotation (text tokens sit at position 0).
  const float* cos = nullptr;
  const float* sin = nullptr;
  const int32_t* positions = nullptr;  // row of the tables for each row; null: the row itself
  int64_t first_row = 0;               // of these rows among those that `positions` counts
  T* q;                                // [rows, heads * head_dim]
  T* k;                                // likewise
  T* v;                                // likewise
  int64_t rows;
  int64_t heads;
  int64_t head_dim;
  float eps;  // inside the root
};

// The latents' embedding: out[r] = latents[positions[first_row + r]] weight + bias, latents rounded
// to T first. Source: diffusers' x_embedder on pack_latents' tokens, of which JiT computes some.
template <typename T>
struct GatherEmbed {
  const float* latents;                // [N, channels]
  const int32_t* positions = nullptr;  // rows of latents; null: first_row + r
  int64_t first_row = 0;
  // Blocks of columns, [d / kEmbedColumns rounded up][channels][kEmbedColumns], zero-padded.
  const float* weight;
  const float* bias;  // [d]
  T* out;             // [rows, d]
  int64_t rows;
  int64_t channels;  // at most kEmbedMaxChannels
  int64_t d;
};

// Kernels over token rows that exist for every activation type T.
template <typename T>
struct RowKernels {
  // out = layer_norm(x) * (1 + scale) + shift over the last dimension, no affine part, eps inside
  // the root. x, out: [rows, d]; shift, scale: [d]. Source: diffusers' AdaLayerNormZero.
  void (*layer_norm_modulate)(const T* x, const float* shift, const float* scale, T* out,
                              int64_t rows, int64_t d, float eps);

  // x += gate * y. x, y: [rows, d]; gate: [d]. Source: diffusers' FluxTransformerBlock, gate_msa
  // and gate_mlp.
  void (*gated_residual)(T* x, const T* y, Rescale rescale, const float* gate, int64_t rows,
                         int64_t d);

  void (*qk_norm_rope)(const QkNormRope<T>& arguments);

  // dst = gelu_tanh(src): [rows, d] with row strides. Relative error against the exact formula <
  // 1e-6 before rounding. Source: torch's gelu(approximate="tanh").
  void (*gelu_tanh)(const T* src, int64_t src_stride, Rescale rescale, T* dst, int64_t dst_stride,
                    int64_t rows, int64_t d);

  // q = round(x / scale) + offset, scale = max|x| / levels of each row; NaN if the row has one. x:
  // [rows, d], rows x_stride apart; q: [rows, d] bytes: unsigned with offset 128, two's complement
  // with offset 0. levels: at most 127.
  void (*quantize_rows)(const T* x, int64_t x_stride, uint8_t* q, float* scale, int64_t rows,
                        int64_t d, int32_t offset, float levels);

  void (*gather_embed)(const GatherEmbed<T>& arguments);

  // out = x / sqrt(mean(x^2) + eps) * weight over the last dimension. x: [rows, d] in float32,
  // whatever T is: the residual stream keeps that precision; out: [rows, d]; weight: [d]. Source:
  // transformers' T5LayerNorm.
  void (*rms_norm)(const float* x, const float* weight, T* out, int64_t rows, int64_t d, float eps);

  // x += y, in float32, whatever T is. x, y: [rows, d]; rescale has no bias. Source: transformers'
  // T5LayerSelfAttention and T5LayerFF, their residual connections.
  void (*add_rows)(float* x, const T* y, Rescale rescale, int64_t rows, int64_t d);

  // y = its rows scaled, for which rescale has a scale and no bias. y: [rows, d].
  void (*rescale_rows)(T* y, Rescale rescale, int64_t rows, int64_t d);

  // gate = gelu_tanh(gate) * up. gate, up: [rows, d], integer products of the same rows if there is
  // a rescale, which has no bias. Source: transformers' T5DenseGatedActDense.
  void (*gated_gelu)(T* gate, const T* up, Rescale rescale, int64_t rows, int64_t d);

  // Mean and sum of squared deviations from it of every column of x: [rows, d], two passes. mean,
  // square_sum: [d].
  void (*column_moments)(const T* x, int64_t rows, int64_t d, float* mean, float* square_sum);

  // out = silu(x * scale + shift), column by column: a group norm's last pass. x, out: [rows, d];
  // scale, shift: [d]. Source: diffusers' ResnetBlock2D (norm, then nonlinearity).
  void (*scale_shift_silu)(const T* x, const float* scale, const float* shift, T* out, int64_t rows,
                           int64_t d);
};

// Attention of one head over a sequence, no mask. T activations, float32 softmax and accumulation;
// products in bfloat16 for bfloat16 activations where the CPU has tiles or dot products for them
// (then the softmax weights are rounded to bfloat16, as everywhere), else in float32.
constexpr int64_t kAttentionMaxHeadDim = 256;
constexpr int64_t kAttentionHeadDimMultiple = 16;

// out = softmax(scale q k^T) v for some rows of q.
template <typename T>
struct Attend {
  const T* q;  // [rows, head_dim]
  int64_t q_stride;
  const void* packed;  // the keys and values, as pack() wrote them
  int64_t keys;
  int64_t head_dim;  // a multiple of kAttentionHeadDimMultiple, at most kAttentionMaxHeadDim
  float scale;       // > 0
  T* out;            // [rows, head_dim]
  int64_t out_stride;
  int64_t rows;  // at most AttentionKernels::queries
};

template <typename T>
struct AttentionKernels {
  // Bytes that pack() writes for one head.
  int64_t (*packed_bytes)(int64_t keys, int64_t head_dim);

  // k, v: [keys, head_dim], rows `stride` apart. `packed`: 64-byte aligned.
  void (*pack)(const T* k, const T* v, int64_t stride, int64_t keys, int64_t head_dim,
               void* packed);

  void (*attend)(const Attend<T>& arguments);

  // Rows of one call: those that share a pass over keys and values.
  int64_t queries;
};

// One row of the lifted field: full[c] = v[positions[c]] at anchors (positions[c] >= 0), else the
// blur along the rows, sum_j weight[j] * rows[j][c]; then latents += d_sigma * full. Source: the
// augmented lifter of arXiv 2603.10744.
struct LiftRow {
  const float* const* rows;  // [taps] rows of the field that blur_row has blurred, [cols, channels]
  const float* v;            // [M, channels], the velocity at the anchors
  const int32_t* positions;  // [cols], position in the anchor list, or -1
  const float* weight;       // [taps]
  int64_t taps;
  float* full;               // [cols, channels]
  float* latents = nullptr;  // [cols, channels]; null: no step
  float d_sigma = 0.0f;      // next sigma - this sigma
  int64_t cols;
  int64_t channels;
};

// The JiT operators work on float32 latents and velocities, [N, C] of one image.
struct JitKernels {
  // One row of the blur along the columns: out[c] = sum_j weight[j] * v[nearest[reflect(c + j -
  // radius)]]. v: [M, C]; nearest: [cols] positions in the anchor list; weight: [2 radius + 1];
  // out: [cols, C].
  void (*blur_row)(const float* v, const int32_t* nearest, const float* weight, int64_t radius,
                   float* out, int64_t cols, int64_t channels);

  void (*lift_row)(const LiftRow& arguments);

  // Channel mean of the 3x3 local variance of v (zero padding, division by 9, two passes): ITA's
  // importance map. v: [rows * cols, channels]; out: [rows * cols], of which grid rows row_begin to
  // row_end - 1 are written.
  void (*local_variance)(const float* v, float* out, int64_t row_begin, int64_t row_end,
                         int64_t rows, int64_t cols, int64_t channels);

  // y += a * x over n values.
  void (*axpy)(float a, const float* x, float* y, int64_t n);
};

struct KernelTable {
  const char* isa;
  RowKernels<float> f32;
  RowKernels<BFloat16Bits> bf16;
  AttentionKernels<float> attention_f32;
  AttentionKernels<BFloat16Bits> attention_bf16;
  JitKernels jit;

  template <typename T>
  const RowKernels<T>& rows() const;
  template <typename T>
  const AttentionKernels<T>& attention() const;
};

template <>
inline const RowKernels<float>& KernelTable::rows<float>() const {
  return f32;
}
template <>
inline const RowKernels<BFloat16Bits>& KernelTable::rows<BFloat16Bits>() const {
  return bf16;
}
template <>
inline const AttentionKernels<float>& KernelTable::attention<float>() const {
  return attention_f32;
}
template <>
inline const AttentionKernels<BFloat16Bits>& KernelTable::attention<BFloat16Bits>() const {
  return attention_bf16;
}

// The table in use: the best one this CPU supports, or the one named by JIT_FLUX_ISA
// (default | avx2 | avx512 | avx512bf16 | amx | amx_emulated). Throws kInvalidArgument if that is
// no set of this CPU.
const KernelTable& table();

// Names of the instruction sets this CPU can run, weakest first. amx_emulated, which is slow
// everywhere and there for tests, is not among them.
std::vector<std::string> supported_isas();

}  // namespace jitflux::kernels
