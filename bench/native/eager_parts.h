// FLUX's text encoders and decoder as an eager framework runs them, one ATen operator after the
// other: the mathematics, parameter names and order of operations of transformers' T5EncoderModel
// and CLIPTextModel and of diffusers' AutoencoderKL. Nothing is tuned. See eager_flux.h.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>

namespace jitflux::bench {

class EagerPart {
 public:
  virtual ~EagerPart() = default;
  // T5, CLIP: ids [B, T] int64 -> [B, T, width]. Decoder: latents [B, channels, h, w] -> picture
  // [B, 3, 8 h, 8 w]. Encoder: picture -> the latents' mean. The results are of the model's type.
  virtual at::Tensor run(const at::Tensor& input) const = 0;
};

// Reads a weight file with the names of Hugging Face; parameters are held in `dtype`. Throws if one
// is missing or left over.
std::unique_ptr<const EagerPart> load_eager_t5(const std::string& path, int64_t layers,
                                               int64_t heads, at::ScalarType dtype);
std::unique_ptr<const EagerPart> load_eager_clip(const std::string& path, int64_t layers,
                                                 int64_t heads, at::ScalarType dtype);
// Of an autoencoder of `levels` resolutions; its decoder is left alone.
std::unique_ptr<const EagerPart> load_eager_encoder(const std::string& path, int64_t levels,
                                                    at::ScalarType dtype);
// Of an autoencoder of `levels` resolutions; its encoder is left alone.
std::unique_ptr<const EagerPart> load_eager_decoder(const std::string& path, int64_t levels,
                                                    at::ScalarType dtype);

}  // namespace jitflux::bench
