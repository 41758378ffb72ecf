// CLIP's text encoder as FLUX uses it (transformers' CLIPTextModel): pre-norm layers, causal
// attention, no padding mask, quick-GELU; the pooled vector is the final state at the end of text.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "base/job.h"
#include "describe/clip.h"
#include "layers/linear.h"

namespace jitflux {

struct ClipOptions : ClipSettings {
  at::ScalarType dtype = at::kFloat;  // kFloat or kBFloat16: weights and matrix products
};

class ClipTextEncoder {
 public:
  // See ClipWeights::resolve. Throws kWeightsMismatch.
  static std::shared_ptr<ClipTextEncoder> load(std::shared_ptr<const WeightFile> file,
                                               const ClipOptions& options, const Job& job);

  struct Encoded {
    at::Tensor pooled;  // [B, width] float32
    at::Tensor hidden;  // [B, T, width] float32, after the final norm
  };

  const ClipConfig& config() const { return config_; }

  // ids: [B, T] int64, T <= positions, every id in [0, vocabulary); the caller checks.
  Encoded encode(const at::Tensor& ids, const Job& job) const;

 private:
  struct Norm {
    at::Tensor weight;  // float32
    at::Tensor bias;
  };
  struct Layer {
    Norm norm1;
    Linear q, k, v, out;
    Norm norm2;
    Linear mlp_in, mlp_out;
  };

  ClipTextEncoder() = default;

  ClipConfig config_;
  at::ScalarType dtype_ = at::kFloat;
  at::Tensor tokens_;     // [vocabulary, width]
  at::Tensor positions_;  // [positions, width] float32
  std::vector<Layer> layers_;
  Norm final_norm_;
  std::shared_ptr<const WeightFile> mapped_file_;  // if any weights are used from its mapping
};

}  // namespace jitflux
