// The encoder of T5 v1.1 (transformers' T5EncoderModel), which turns a prompt into FLUX's text
// tokens: RMSNorm, scores that are not scaled, a relative position bias shared by all blocks, gated
// tanh-GELU. Padding is attended, as FLUX was trained.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "base/job.h"
#include "describe/t5.h"
#include "layers/layer_rows.h"
#include "layers/linear.h"
#include "residency/quantized_linear.h"

namespace jitflux {

struct T5Options : T5Settings {
  at::ScalarType dtype = at::kFloat;  // kFloat or kBFloat16: weights and matrix products
  // The blocks' products multiply bytes instead, weights quantised per output channel while they
  // are loaded, activations per token. CPU only.
  bool int8 = false;
};

// Bucket of a relative position key - query, bidirectional: exact up to a quarter of the buckets,
// logarithmic from there to max_distance.
int64_t t5_bucket(int64_t relative, int64_t buckets, int64_t max_distance);

class T5Encoder {
 public:
  // See T5Weights::resolve. Throws kWeightsMismatch.
  static std::shared_ptr<T5Encoder> load(std::shared_ptr<const WeightFile> file,
                                         const T5Options& options, const Job& job);

  const T5Config& config() const { return config_; }

  // ids: [B, T] int64, T <= max_tokens, every id in [0, vocabulary); the caller checks. Returns
  // [B, T, width] float32. Runs on the inference thread only.
  at::Tensor encode(const at::Tensor& ids, const Job& job);

 private:
  // A linear layer without bias, in one of the two forms.
  struct Layer {
    Linear plain;
    QuantizedLinear quantized;
  };
  struct Block {
    at::Tensor norm1;  // [width] float32
    Layer q, k, v, out;
    at::Tensor norm2;
    Layer gate, up, down;  // down(gelu(gate x) * up x)
  };

  T5Encoder() = default;
  // Rows as the layers take them.
  LayerInput layer_input(at::Tensor rows) const;
  // In the compute type; of bytes, products that still want their rows' scales.
  at::Tensor multiply(const Layer& layer, const LayerInput& x) const;
  const at::Tensor& position_bias(int64_t length);
  template <typename T>
  at::Tensor run(const at::Tensor& ids, const Job& job);

  T5Config config_;
  at::ScalarType dtype_ = at::kFloat;
  bool int8_ = false;
  at::Tensor tokens_;      // [vocabulary, width]
  at::Tensor bias_table_;  // [buckets, heads] float32
  std::vector<Block> blocks_;
  at::Tensor final_norm_;
  // [1, heads, T, T] of the length used last; float32, on an accelerator of the compute type
  at::Tensor position_bias_;
  std::shared_ptr<const WeightFile> mapped_file_;  // if any weights are used from its mapping
};

}  // namespace jitflux
