// What happens to token rows between a transformer's layers: the kernels of kernels/kernels.h over
// whole tensors, on all threads, or those of kernels/device_kernels.h on this thread's accelerator;
// counted (base/counters.h). Rows are contiguous and of the model's type (float32, bfloat16, on
// accelerators also float16), vectors and tables float32; everything lies on current_device(). A
// LayerInput as output: rows of that type, or (CPU only) bytes and their scales.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "layers/latent_embedder.h"
#include "layers/layer_rows.h"
#include "layers/rope.h"

namespace jitflux {

constexpr float kNormEps = 1e-6f;  // of every norm in FLUX's transformer

// Shift and scale of an adaptive layer norm, [d] each; null: there is none.
struct AdaNorm {
  const float* shift = nullptr;
  const float* scale = nullptr;
};

// Which row of the table rotates a token; no table: no rotation (text tokens sit at position 0).
struct Rotation {
  const RopeTable* table = nullptr;
  const int32_t* positions = nullptr;  // null: the token's own index
};

// out = layer_norm(x) modulated. x: [rows, d].
void layer_norm_modulate(const at::Tensor& x, AdaNorm norm, const LayerInput& out);

// x += gate * y and, if there is a norm, out = layer_norm(x) modulated while the rows are in the
// cache. x, y: [rows, d]; gate: [d].
void gated_residual(const at::Tensor& x, const LayerOutput& y, const float* gate, AdaNorm norm,
                    const LayerInput& out);

// The last columns of out = gelu_tanh(src's columns from src_column on); the ones before them =
// prefix or, if that is undefined, left as they are.
void gelu(const LayerOutput& src, int64_t src_column, const at::Tensor& prefix,
          const LayerInput& out);

// out, which holds bytes = x. x: [rows, d].
void quantize(const at::Tensor& x, const LayerInput& out);

// q = rotated(rms_norm(q)), k likewise, v copied. qkv: [rows, 3 heads head_dim or more]; q_weight,
// k_weight: [head_dim]; q, k, v: [rows, heads * head_dim]. On accelerators they may be qkv's own
// columns: then q and k are changed in place.
void qk_norm_rope(const LayerOutput& qkv, const at::Tensor& q_weight, const at::Tensor& k_weight,
                  Rotation rotation, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

// out = the embedding of latents' rows at `positions`, or of the first ones if that is null.
// latents: [tokens, in] float32; out: [rows, d].
void gather_embed(const float* latents, const int32_t* positions, const LatentEmbedder& embedder,
                  const at::Tensor& out);

}  // namespace jitflux
