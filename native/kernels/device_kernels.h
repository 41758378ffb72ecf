// Kernels of an accelerator behind one table of function pointers: the same operations as
// kernels.h, over whole tensors in device memory. kernels/cuda/*.cu implements it, without
// LibTorch; flux/token_passes.cc and jit/ call it. C++17, because nvcc compiles it too.
//
// Contract of every kernel. Asynchronous: queued on `stream` (a cudaStream_t), never waits for the
// device, allocates nothing. Activations are of type T (float32, bfloat16 or float16), vectors,
// tables, latents and velocities float32; arithmetic and statistics in float32, one rounding to T
// (to nearest even) at the end, so that results differ from the CPU's only by the order of sums and
// by the last bits of exp and tanh. Results do not depend on launch geometry or on earlier calls:
// equal inputs give equal bits. Zero rows are allowed. Strides are in elements. Where a pointer and
// its strides are multiples of 16 bytes, accesses are 16 bytes wide; other shapes take the same
// arithmetic element by element. Throws std::runtime_error if a launch is refused.
#pragma once

#include <cstdint>

namespace jitflux::kernels {

enum class Element : int32_t { kFloat32, kBFloat16, kFloat16 };

// cudaStream_t, without CUDA's headers.
using DeviceStream = void*;

constexpr int64_t kDeviceNormMaxWidth = 16384;  // d of the norms
constexpr int64_t kDeviceMaxHeadDim = 256;      // even

struct DeviceKernels {
  // ---- token rows; [rows, d] and contiguous unless a stride is given ----

  // out = layer_norm(x) * (1 + scale) + shift. shift, scale: [d]. Mean and variance in two passes
  // over the row (kept on chip).
  void (*layer_norm_modulate)(Element type, const void* x, const float* shift, const float* scale,
                              void* out, int64_t rows, int64_t d, float eps, DeviceStream stream);

  // x += gate * y, rounded to T (float16: clipped to its range); then, unless shift is null, out =
  // layer_norm(x) * (1 + scale) + shift of the rounded x, in the same pass. gate, shift, scale:
  // [d].
  void (*gated_residual)(Element type, void* x, const void* y, const float* gate,
                         const float* shift, const float* scale, void* out, int64_t rows, int64_t d,
                         float eps, DeviceStream stream);

  // q = rope(rms_norm(q) * q_weight), k likewise, v copied unless it is null. qkv: rows of [q | k |
  // v | ...], each part heads * head_dim wide, rows qkv_stride apart; q, k, v: rows out_stride
  // apart. In place is allowed: q == qkv, k == qkv + heads * head_dim, out_stride == qkv_stride.
  // q_weight, k_weight: [head_dim]; cos, sin, positions as in kernels.h.
  void (*qk_norm_rope)(Element type, const void* qkv, int64_t qkv_stride, const float* q_weight,
                       const float* k_weight, const float* cos, const float* sin,
                       const int32_t* positions, void* q, void* k, void* v, int64_t out_stride,
                       int64_t rows, int64_t heads, int64_t head_dim, float eps,
                       DeviceStream stream);

  // dst's columns from prefix_columns on = gelu_tanh(src), [rows, d]; the ones before = prefix,
  // [rows, prefix_columns] with rows prefix_stride apart, or left as they are if it is null.
  void (*gelu_tanh)(Element type, const void* src, int64_t src_stride, const void* prefix,
                    int64_t prefix_stride, int64_t prefix_columns, void* dst, int64_t dst_stride,
                    int64_t rows, int64_t d, DeviceStream stream);

  // out[r] = T(latents[positions[r]]) weight + bias; null positions: row r. Layouts as in kernels.h
  // (gather_embed): weight in blocks of kEmbedColumns columns; channels at most kEmbedMaxChannels.
  void (*gather_embed)(Element type, const float* latents, const int32_t* positions,
                       const float* weight, const float* bias, void* out, int64_t rows,
                       int64_t channels, int64_t d, DeviceStream stream);

  // out = x / sqrt(mean(x^2) + eps) * weight, x float32 (T5).
  void (*rms_norm)(Element type, const float* x, const float* weight, void* out, int64_t rows,
                   int64_t d, float eps, DeviceStream stream);

  // ---- autoencoder: feature maps [rows, columns, channels], rows row_stride apart ----

  // Bytes of scratch that group_norm needs.
  int64_t (*group_norm_scratch_bytes)(int64_t rows, int64_t columns, int64_t channels);

  // Statistics of a group norm, folded with its weights: scale[c] = weight[c] / sqrt(var + eps),
  // shift[c] = bias[c] - mean * scale[c]. Partial sums over a fixed number of row ranges, in
  // float32 around each range's first value, combined in float64 in a fixed order. weight, bias,
  // scale, shift: [channels]; channels divisible by groups.
  void (*group_norm)(Element type, const void* x, int64_t row_stride, int64_t rows, int64_t columns,
                     int64_t channels, int64_t groups, const float* weight, const float* bias,
                     float eps, float* scale, float* shift, void* scratch, DeviceStream stream);

  // out = silu(x * scale + shift), channel by channel.
  void (*scale_shift_silu)(Element type, const void* x, int64_t x_row_stride, const float* scale,
                           const float* shift, void* out, int64_t out_row_stride, int64_t rows,
                           int64_t columns, int64_t channels, DeviceStream stream);

  // ---- JiT: one image, float32, token i at row i / cols; lists are checked by the caller ----

  // positions[t] = index of t in anchors, or -1. positions: [tokens].
  void (*anchor_positions)(const int32_t* anchors, int64_t count, int32_t* positions,
                           int64_t tokens, DeviceStream stream);

  // nearest[t] = index in anchors of the nearest one by Euclidean distance; among equally near ones
  // the earliest in the list. Exact integers. positions: as above; nearest: [rows * cols]; scratch:
  // 8 bytes per token.
  void (*nearest_anchor_map)(const int32_t* positions, int32_t* nearest, void* scratch,
                             int64_t rows, int64_t cols, DeviceStream stream);

  // out[i] = src[tokens[i]]. out: [count, channels].
  void (*gather_rows)(const float* src, const int32_t* tokens, float* out, int64_t count,
                      int64_t channels, DeviceStream stream);

  // full = v[positions[t]] at anchors, elsewhere v[nearest] blurred along columns, then rows, with
  // mirrored borders (reflect.h); latents += d_sigma * full unless latents is null. v: [M,
  // channels]; weights: [2 radius + 1]; blurred, full, latents: [rows * cols, channels].
  void (*lift_step)(const float* v, const int32_t* nearest, const int32_t* positions,
                    const float* weights, int64_t radius, float* blurred, float* full,
                    float* latents, float d_sigma, int64_t rows, int64_t cols, int64_t channels,
                    DeviceStream stream);

  // Channel mean of the 3x3 local variance (zero padding, division by 9, two passes). v: [rows *
  // cols, channels]; out: [rows * cols].
  void (*local_variance)(const float* v, float* out, int64_t rows, int64_t cols, int64_t channels,
                         DeviceStream stream);

  // The `count` tokens of highest score among those with positions[t] < 0 (all, if positions is
  // null), highest first, equal scores by lower token; NaN counts as -infinity. `count` is at most
  // the number of candidates. out: [count].
  void (*top_k)(const float* scores, const int32_t* positions, int64_t tokens, int64_t count,
                int32_t* out, DeviceStream stream);

  // out[i] = (1 - sigma) * lifted(new_tokens[i]) + sigma * noise[new_tokens[i]], where lifted is
  // lift_step's `full` of v, made only where it is needed. noise: [rows * cols, channels]; out:
  // [count, channels].
  void (*micro_flow_target)(const float* v, const int32_t* nearest, const int32_t* positions,
                            const float* weights, int64_t radius, float* blurred,
                            const float* noise, const int32_t* new_tokens, int64_t count,
                            float sigma, float* out, int64_t rows, int64_t cols, int64_t channels,
                            DeviceStream stream);

  // latents[tokens[i]] = (1 - weight) * latents[tokens[i]] + weight * target[i]; exactly target[i]
  // for weight >= 1.
  void (*blend_rows)(float* latents, const float* target, const int32_t* tokens, float weight,
                     int64_t count, int64_t channels, DeviceStream stream);
};

// Defined by kernels/cuda/table.cu.
const DeviceKernels& cuda_kernels();

}  // namespace jitflux::kernels
