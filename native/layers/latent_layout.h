// Layout of latents between transformer and autoencoder, and of pictures after it. Batches: images
// put together.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "base/token_grid.h"

namespace jitflux {

// Packed tokens [B, rows * cols, 4C] to the autoencoder's latents [B, C, 2 rows, 2 cols]: value /
// scale + shift. A token holds 2x2 cells; its channel is c * 4 + dy * 2 + dx. `tokens` is
// contiguous.
at::Tensor unpack_latents(const at::Tensor& tokens, const Grid& grid, double scale, double shift);

// [B, C, 2 rows, 2 cols], contiguous, to packed tokens [B, rows * cols, 4C].
at::Tensor pack_latents(const at::Tensor& latents);

// Pictures [B, 3, H, W] in [-1, 1] to bytes [B, H, W, 3] on the CPU, contiguous: round(clamp(x / 2
// + 0.5) * 255), as diffusers' VaeImageProcessor.
at::Tensor picture_bytes(const at::Tensor& pictures);

// One tensor with the images (first dimension) of all `tensors`, one after another, those of
// tensors[i] repeated repeats[i] >= 1 times each.
at::Tensor stack_images(const std::vector<at::Tensor>& tensors,
                        const std::vector<int32_t>& repeats);

}  // namespace jitflux
