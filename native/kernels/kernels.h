// CPU kernels behind one table of function pointers, one table per instruction set. The .cc files
// in cpu/ are compiled once per instruction set (cmake/CpuKernels.cmake) and know neither LibTorch
// nor threads: callers split rows over threads with base/parallel.h.
//
// Numerical contract of every kernel: inputs and outputs in T (float or bfloat16 stored as
// uint16_t), arithmetic and statistics in float32, one rounding to T at the end. Row strides are in
// elements.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace jitflux::kernels {

using BFloat16Bits = uint16_t;

// What is still to be done to a layer's integer products: value = y * row_scale[row] +
// bias[column]. Null row_scale: y is the value already.
struct Rescale {
  const float* row_scale = nullptr;
  const float* bias = nullptr;
};

constexpr int64_t kRescaledMaxHeadDim = 1024;  // of qk_norm_rope with a Rescale
constexpr int64_t kEmbedColumns = 64;          // of gather_embed's weight blocks
constexpr int64_t kEmbedMaxChannels = 512;

// Kernels over token rows that exist for every activation type T.
template <typename T>
struct RowKernels {
  // out = layer_norm(x) * (1 + scale) + shift over the last dimension, no affine part, eps inside
  // the root (FLUX adaLN). x, out: [rows, d]; shift, scale: [d].
  void (*layer_norm_modulate)(const T* x, const float* shift, const float* scale, T* out,
                              int64_t rows, int64_t d, float eps);

  // x += gate * y. x, y: [rows, d]; gate: [d].
  void (*gated_residual)(T* x, const T* y, Rescale rescale, const float* gate, int64_t rows,
                         int64_t d);

  // q = rope(rms_norm(q) * q_weight), k likewise, v copied. qkv: rows of [q | k | v | ...], each
  // part heads*head_dim wide, rows qkv_stride apart. q, k, v: [rows, heads*head_dim]. cos, sin:
  // tables of [positions, head_dim] indexed by positions[row] (or by the row itself if positions is
  // null); null tables: no rotation (text tokens sit at position 0). Neighbouring channels form a
  // pair: (a, b) -> (a cos - b sin, b cos + a sin), so cos holds every value twice and sin holds
  // (-sin, sin).
  void (*qk_norm_rope)(const T* qkv, int64_t qkv_stride, Rescale rescale, const float* q_weight,
                       const float* k_weight, const float* cos, const float* sin,
                       const int32_t* positions, int64_t first_row, T* q, T* k, T* v, int64_t rows,
                       int64_t heads, int64_t head_dim, float eps);

  // dst = gelu_tanh(src): [rows, d] with row strides. Relative error against the exact formula <
  // 1e-6 before rounding.
  void (*gelu_tanh)(const T* src, int64_t src_stride, Rescale rescale, T* dst, int64_t dst_stride,
                    int64_t rows, int64_t d);

  // q = round(x / scale) + offset, scale = max|x| / levels of each row; NaN if the row has one. x:
  // [rows, d], rows x_stride apart; q: [rows, d] bytes: unsigned with offset 128, two's complement
  // with offset 0. levels: at most 127.
  void (*quantize_rows)(const T* x, int64_t x_stride, uint8_t* q, float* scale, int64_t rows,
                        int64_t d, int32_t offset, float levels);

  // out[r] = latents[positions[first_row + r]] weight + bias, latents rounded to T first; null
  // positions: row first_row + r. latents: [N, channels], channels at most kEmbedMaxChannels;
  // weight: blocks of columns, [d / kEmbedColumns rounded up][channels][kEmbedColumns],
  // zero-padded; out: [rows, d].
  void (*gather_embed)(const float* latents, const int32_t* positions, int64_t first_row,
                       const float* weight, const float* bias, T* out, int64_t rows,
                       int64_t channels, int64_t d);

  // out = x / sqrt(mean(x^2) + eps) * weight over the last dimension (T5). x: [rows, d] in float32,
  // whatever T is: the residual stream keeps that precision.
  void (*rms_norm)(const float* x, const float* weight, T* out, int64_t rows, int64_t d, float eps);

  // Mean and sum of squared deviations from it of every column of x: [rows, d], two passes.
  void (*column_moments)(const T* x, int64_t rows, int64_t d, float* mean, float* square_sum);

  // out = silu(x * scale + shift), column by column: a group norm's last pass. x, out: [rows, d].
  void (*scale_shift_silu)(const T* x, const float* scale, const float* shift, T* out, int64_t rows,
                           int64_t d);
};

// Attention of one head over a sequence, no mask. T activations, float32 softmax and accumulation;
// products in bfloat16 for bfloat16 activations where the CPU has dot products for them (then the
// softmax weights are rounded to bfloat16, as everywhere), else in float32.
constexpr int64_t kAttentionKeyBlock = 64;
constexpr int64_t kAttentionQueries = 96;
constexpr int64_t kAttentionMaxHeadDim = 256;
constexpr int64_t kAttentionHeadDimMultiple = 16;

template <typename T>
struct AttentionKernels {
  // Bytes that pack() writes for one head.
  int64_t (*packed_bytes)(int64_t keys, int64_t head_dim);

  // k, v: [keys, head_dim], rows `stride` apart. `packed`: 64-byte aligned.
  void (*pack)(const T* k, const T* v, int64_t stride, int64_t keys, int64_t head_dim,
               void* packed);

  // out = softmax(scale q k^T) v for up to kAttentionQueries rows of q. scale > 0; head_dim a
  // multiple of kAttentionHeadDimMultiple, at most kAttentionMaxHeadDim.
  void (*attend)(const T* q, int64_t q_stride, const void* packed, int64_t keys, int64_t head_dim,
                 float scale, T* out, int64_t out_stride, int64_t rows);
};

// The JiT operators work on float32 latents and velocities, [N, C] of one image.
struct JitKernels {
  // One row of the blur along the columns: out[c] = sum_j weight[j] * v[nearest[reflect(c + j -
  // radius)]]. v: [M, C]; nearest: [cols] positions in the anchor list; out: [cols, C].
  void (*blur_row)(const float* v, const int32_t* nearest, const float* weight, int64_t radius,
                   float* out, int64_t cols, int64_t channels);

  // One row of the result: full[c] = v[positions[c]] at anchors (positions[c] >= 0), else the blur
  // along the rows, sum_j weight[j] * rows[j][c], of `taps` blurred rows [cols, C]; then latents +=
  // d_sigma * full unless latents is null.
  void (*lift_row)(const float* const* rows, const float* v, const int32_t* positions,
                   const float* weight, int64_t taps, float* full, float* latents, float d_sigma,
                   int64_t cols, int64_t channels);

  // Channel mean of the 3x3 local variance of v (zero padding, division by 9, two passes).
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
// (default | avx2 | avx512 | avx512bf16). Throws kInvalidArgument if that is no set of this CPU.
const KernelTable& table();

// Names of the instruction sets this CPU can run, weakest first.
std::vector<std::string> supported_isas();

}  // namespace jitflux::kernels
