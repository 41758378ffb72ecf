#include "layers/latent_layout.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/repeat_interleave.h>
#include <ATen/ops/round.h>

namespace jitflux {

at::Tensor unpack_latents(const at::Tensor& tokens, const Grid& grid, double scale, double shift) {
  const int64_t images = tokens.size(0);
  const int64_t channels = tokens.size(2) / 4;
  return tokens.view({images, grid.rows, grid.cols, channels, 2, 2})
      .permute({0, 3, 1, 4, 2, 5})
      .reshape({images, channels, 2 * grid.rows, 2 * grid.cols})
      .div(scale)
      .add(shift);
}

at::Tensor pack_latents(const at::Tensor& latents) {
  const int64_t images = latents.size(0);
  const int64_t channels = latents.size(1);
  const int64_t rows = latents.size(2) / 2;
  const int64_t cols = latents.size(3) / 2;
  return latents.view({images, channels, rows, 2, cols, 2})
      .permute({0, 2, 4, 1, 3, 5})
      .reshape({images, rows * cols, channels * 4});
}

at::Tensor picture_bytes(const at::Tensor& pictures) {
  return pictures.to(at::kFloat)
      .div(2.0)
      .add(0.5)
      .clamp(0.0, 1.0)
      .mul(255.0)
      .round()
      .to(at::kByte)
      .permute({0, 2, 3, 1})
      .contiguous()
      .cpu();
}

at::Tensor stack_images(const std::vector<at::Tensor>& tensors,
                        const std::vector<int32_t>& repeats) {
  std::vector<at::Tensor> parts;
  for (size_t i = 0; i < tensors.size(); ++i) {
    parts.push_back(repeats[i] == 1 ? tensors[i]
                                    : at::repeat_interleave(tensors[i], repeats[i], 0));
  }
  return at::cat(parts);
}

}  // namespace jitflux
