// The linear layer that embeds latents (diffusers' x_embedder), as the gather_embed kernel takes
// it.
#pragma once

#include <ATen/core/Tensor.h>

#include "layers/linear.h"

namespace jitflux {

struct LatentEmbedder {
  at::Tensor weight;  // [blocks of kEmbedColumns outputs, in, kEmbedColumns] float32, zero-padded
  at::Tensor bias;    // [out] float32

  // Rounded to the type of `linear`, in which the original multiplies.
  static LatentEmbedder from(const Linear& linear);
};

}  // namespace jitflux
