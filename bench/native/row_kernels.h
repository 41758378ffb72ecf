// The CPU kernels over token rows, on whole tensors and all threads, as native/flux calls them. The
// benchmark's only use of the kernels' own signatures.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "flux/latent_embedder.h"

namespace jitflux::bench {

// Contiguous tensors, x, y and outputs float32 or bfloat16 alike; vectors and tables float32.
constexpr double kNormEps = 1e-6;

// x, out: [rows, d]; shift, scale: [d].
void layer_norm_modulate(const at::Tensor& x, const at::Tensor& shift, const at::Tensor& scale,
                         const at::Tensor& out);

// x += gate * y. x, y: [rows, d]; gate: [d].
void gated_residual(const at::Tensor& x, const at::Tensor& y, const at::Tensor& gate);

// The two above in one pass over the rows: x += gate * y, then out from the new x.
void gated_residual_layer_norm_modulate(const at::Tensor& x, const at::Tensor& y,
                                        const at::Tensor& gate, const at::Tensor& shift,
                                        const at::Tensor& scale, const at::Tensor& out);

// qkv: [rows, 3 heads head_dim]; q_weight, k_weight: [head_dim]; cos, sin: [rows, head_dim / 2];
// q, k, v: [rows, heads * head_dim].
void qk_norm_rope(const at::Tensor& qkv, const at::Tensor& q_weight, const at::Tensor& k_weight,
                  const at::Tensor& cos, const at::Tensor& sin, const at::Tensor& q,
                  const at::Tensor& k, const at::Tensor& v);

// x, out: [rows, d].
void gelu_tanh(const at::Tensor& x, const at::Tensor& out);

// x: [rows, d]; bytes: [rows, d] uint8; row_scale: [rows] float32.
void quantize_rows(const at::Tensor& x, const at::Tensor& bytes, const at::Tensor& row_scale);

// out = the embedding of latents[positions]. latents: [tokens, channels] float32; out: [positions,
// d].
void gather_embed(const at::Tensor& latents, const std::vector<int32_t>& positions,
                  const LatentEmbedder& embedder, const at::Tensor& out);

// x, out: [rows, d]; scale, shift: [d].
void scale_shift_silu(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift,
                      const at::Tensor& out);

}  // namespace jitflux::bench
