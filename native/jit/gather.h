// The compression S_k^T: rows of the anchors.
#pragma once

#include <ATen/core/Tensor.h>

#include "base/token_grid.h"

namespace jitflux::jit {

// Rows of latents [B, N, C] at the anchors: [B, M, C]. float32, contiguous, on current_device();
// `anchors` has passed check_token_lists.
at::Tensor gather(const at::Tensor& latents, const TokenLists& anchors);

}  // namespace jitflux::jit
