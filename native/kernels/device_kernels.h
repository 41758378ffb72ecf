// Kernels of an accelerator behind one table of function pointers: the same operations as
// kernels.h, over whole tensors in device memory. kernels/cuda/*.cu implements it, without
// LibTorch; layers/token_passes.cc, models/ and jit/ call it. C++17, because nvcc compiles it too.
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

// Arguments of the kernels that take more than a few. Token rows are [rows, d] and contiguous
// unless a stride is given; sources as in kernels.h. `void*`: elements of the type that the kernel
// is called with.
namespace device {

// out = layer_norm(x) * (1 + scale) + shift. Mean and variance in two passes over the row (kept on
// chip).
struct LayerNormModulate {
  const void* x;       // [rows, d]
  const float* shift;  // [d]
  const float* scale;  // [d]
  void* out;           // [rows, d]
  int64_t rows;
  int64_t d;  // at most kDeviceNormMaxWidth
  float eps;  // inside the root
};

// x += gate * y, rounded to T (float16: clipped to its range); then, unless shift is null, out =
// layer_norm(x) * (1 + scale) + shift of the rounded x, in the same pass.
struct GatedResidual {
  void* x;                       // [rows, d]
  const void* y;                 // [rows, d]
  const float* gate;             // [d]
  const float* shift = nullptr;  // [d]
  const float* scale = nullptr;  // [d]
  void* out = nullptr;           // [rows, d]
  int64_t rows;
  int64_t d;  // at most kDeviceNormMaxWidth
  float eps;  // inside the root
};

// q = rope(rms_norm(q) * q_weight), k likewise, v copied. In place is allowed: q == qkv, k == qkv +
// heads * head_dim, out_stride == qkv_stride.
struct QkNormRope {
  const void* qkv;  // rows of [q | k | v | ...], each part heads * head_dim wide
  int64_t qkv_stride;
  const float* q_weight;  // [head_dim]
  const float* k_weight;  // [head_dim]
  // As in kernels.h: tables of [positions, head_dim], null for no rotation, and the tables' row of
  // each token, null for its own.
  const float* cos = nullptr;
  const float* sin = nullptr;
  const int32_t* positions = nullptr;
  void* q;            // [rows, heads * head_dim], rows out_stride apart
  void* k;            // likewise
  void* v = nullptr;  // likewise; null: v is not copied
  int64_t out_stride;
  int64_t rows;
  int64_t heads;
  int64_t head_dim;  // even, at most kDeviceMaxHeadDim
  float eps;         // inside the root
};

// dst's columns from prefix_columns on = gelu_tanh(src); the ones before = prefix, or left as they
// are if it is null.
struct GeluTanh {
  const void* src;  // [rows, d]
  int64_t src_stride;
  const void* prefix = nullptr;  // [rows, prefix_columns]
  int64_t prefix_stride = 0;
  int64_t prefix_columns = 0;
  void* dst;  // [rows, prefix_columns + d]
  int64_t dst_stride;
  int64_t rows;
  int64_t d;
};

// out[r] = T(latents[positions[r]]) weight + bias.
struct GatherEmbed {
  const float* latents;                // [N, channels]
  const int32_t* positions = nullptr;  // [rows]; null: row r
  const float* weight;                 // in blocks of kEmbedColumns columns, as in kernels.h
  const float* bias;                   // [d]
  void* out;                           // [rows, d]
  int64_t rows;
  int64_t channels;  // at most kEmbedMaxChannels
  int64_t d;
};

// Statistics of a group norm over a feature map, folded with its weights: scale[c] = weight[c] /
// sqrt(var + eps), shift[c] = bias[c] - mean * scale[c]. Partial sums over a fixed number of row
// ranges, in float32 around each range's first value, combined in float64 in a fixed order.
struct GroupNorm {
  const void* x;  // [rows, columns, channels]
  int64_t row_stride;
  int64_t rows;
  int64_t columns;
  int64_t channels;  // divisible by groups
  int64_t groups;
  const float* weight;  // [channels]
  const float* bias;    // [channels]
  float eps;            // inside the root
  float* scale;         // [channels]
  float* shift;         // [channels]
  void* scratch;        // group_norm_scratch_bytes
};

// out = silu(x * scale + shift), channel by channel; out may be x.
struct ScaleShiftSilu {
  const void* x;  // [rows, columns, channels]
  int64_t x_row_stride;
  const float* scale;  // [channels]
  const float* shift;  // [channels]
  void* out;           // [rows, columns, channels]
  int64_t out_row_stride;
  int64_t rows;
  int64_t columns;
  int64_t channels;
};

// What the lifter of one anchor list reads and keeps, one image, float32; token i at row i / cols.
// The lifted field is v[positions[t]] at anchors, elsewhere v[nearest] blurred along columns, then
// rows, with mirrored borders (reflect.h).
struct Lift {
  const float* v;            // [M, channels], the field at the anchors
  const int32_t* nearest;    // [rows * cols], position in the anchor list of the nearest anchor
  const int32_t* positions;  // [rows * cols], position in the anchor list, or -1
  const float* weights;      // [2 radius + 1]
  int64_t radius;
  float* blurred;  // scratch, [rows * cols, channels]
  int64_t rows;
  int64_t cols;
  int64_t channels;
};

}  // namespace device

struct DeviceKernels {
  // ---- token rows ----

  void (*layer_norm_modulate)(Element type, const device::LayerNormModulate&, DeviceStream);
  void (*gated_residual)(Element type, const device::GatedResidual&, DeviceStream);
  void (*qk_norm_rope)(Element type, const device::QkNormRope&, DeviceStream);
  void (*gelu_tanh)(Element type, const device::GeluTanh&, DeviceStream);
  void (*gather_embed)(Element type, const device::GatherEmbed&, DeviceStream);

  // out = x / sqrt(mean(x^2) + eps) * weight. x: [rows, d] float32; weight: [d]; out: [rows, d]
  // (T5).
  void (*rms_norm)(Element type, const float* x, const float* weight, void* out, int64_t rows,
                   int64_t d, float eps, DeviceStream stream);

  // ---- autoencoder: feature maps [rows, columns, channels], rows row_stride apart ----

  // Bytes of scratch that group_norm needs.
  int64_t (*group_norm_scratch_bytes)(int64_t rows, int64_t columns, int64_t channels);
  void (*group_norm)(Element type, const device::GroupNorm&, DeviceStream);
  void (*scale_shift_silu)(Element type, const device::ScaleShiftSilu&, DeviceStream);

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

  // full = the lifted field; latents += d_sigma * full unless latents is null. full, latents: [rows
  // * cols, channels].
  void (*lift_step)(const device::Lift&, float* full, float* latents, float d_sigma,
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

  // out[i] = (1 - sigma) * lifted(new_tokens[i]) + sigma * noise[new_tokens[i]], lifted only where
  // it is needed. noise: [rows * cols, channels]; new_tokens: [count]; out: [count, channels].
  void (*micro_flow_target)(const device::Lift&, const float* noise, const int32_t* new_tokens,
                            int64_t count, float sigma, float* out, DeviceStream stream);

  // latents[tokens[i]] = (1 - weight) * latents[tokens[i]] + weight * target[i]; exactly target[i]
  // for weight >= 1.
  void (*blend_rows)(float* latents, const float* target, const int32_t* tokens, float weight,
                     int64_t count, int64_t channels, DeviceStream stream);
};

// Defined by kernels/cuda/table.cc.
const DeviceKernels& cuda_kernels();

}  // namespace jitflux::kernels
