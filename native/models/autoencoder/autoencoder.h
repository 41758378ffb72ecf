// FLUX's AutoencoderKL: pictures from latents and latents from pictures.
//
// Memory. Feature maps are [rows, columns, channels]; a convolution runs over strips of rows, and
// group norm, SiLU and upsampling are applied to a strip on its way in, so that only a residual
// block's sum and its hidden map exist in full, and where a block halves the channels both take the
// place of its input. Strips change nothing in the result. FLUX decodes 1024x1024 in float32 within
// 1.5 GiB that way (docs/vae-memory.md); pictures are decoded one after another. Above a budget the
// decode is tiled, which does change the result: group norms and the attention then see a tile.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <vector>

#include "base/job.h"
#include "describe/autoencoder.h"
#include "layers/linear.h"

namespace jitflux {

struct AutoencoderOptions : AutoencoderSettings {
  // Weights and feature maps: kFloat, kBFloat16 or, on accelerators, kHalf.
  at::ScalarType dtype = at::kFloat;
};

struct Tiling {
  enum Mode {
    kNever,
    kAuto,    // if the activations would exceed the budget
    kAlways,  // tiles of at most 64x64 latent cells, or of what the budget allows
    kFixed    // the given tiles, as diffusers' tiled_decode cuts them
  };
  Mode mode = kAuto;
  int64_t budget_bytes = kDecodeBudgetBytes;  // of activations, see Autoencoder::decode_bytes
  int64_t tile = 0;                           // kFixed: size in latent cells
  int64_t overlap = 0;                        // kFixed: latent cells shared by neighbours
};

class Autoencoder {
 public:
  // Names of diffusers or of the original ae.safetensors, below any prefix. Throws
  // kWeightsMismatch.
  static std::shared_ptr<Autoencoder> load(std::shared_ptr<const WeightFile> file,
                                           const AutoencoderOptions& options, const Job& job);

  const AutoencoderConfig& config() const { return config_; }

  // latents: [B, latent channels, h, w], any float type, un-scaled. Returns [B, 3, h*f,
  // w*f] float32 on current_device(), where the model must have been loaded. Polls the job between
  // strips; progress counts blocks over all tiles and pictures.
  at::Tensor decode(const at::Tensor& latents, const Tiling& tiling, const Job& job) const;

  struct Moments {
    at::Tensor mean;    // [B, latent channels, H/f, W/f] float32
    at::Tensor logvar;  // same, clamped to [-30, 20]
  };
  // pictures: [B, 3, H, W] in [-1, 1], sides divisible by the spatial factor. Needs the encoder.
  Moments encode(const at::Tensor& pictures, const Job& job) const;

  // Upper bound of the memory that decoding one picture (or tile) of h x w latent cells takes at
  // its peak, besides weights and the finished picture; on accelerators besides cuDNN's own.
  int64_t decode_bytes(int64_t h, int64_t w) const;

 private:
  struct Conv {
    at::Tensor weight;  // [out, in, 3, 3], channels last
    at::Tensor bias;
  };
  struct Norm {
    at::Tensor weight;  // float32
    at::Tensor bias;
  };
  struct ResidualBlock {
    Norm norm1;
    Conv conv1;
    Norm norm2;
    Conv conv2;
    std::optional<Linear> shortcut;  // a 1x1 convolution
  };
  struct Attention {
    Norm norm;
    Linear q, k, v, out;
  };
  struct Level {
    std::vector<ResidualBlock> blocks;
    std::optional<Conv> resample;  // up or down by two
  };
  // Encoder or decoder; levels in the order in which they run.
  struct Network {
    Conv in;
    std::vector<Level> levels;
    ResidualBlock middle1;
    Attention attention;
    ResidualBlock middle2;
    Norm norm_out;
    Conv out;

    uint64_t blocks() const;  // units of progress
  };
  class Run;

  Autoencoder() = default;

  AutoencoderConfig config_;
  at::ScalarType dtype_ = at::kFloat;
  Network decoder_;
  std::optional<Network> encoder_;
  std::optional<Linear> quant_;
  std::optional<Linear> post_quant_;
};

}  // namespace jitflux
