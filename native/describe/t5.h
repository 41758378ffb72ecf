// What the encoder of T5 v1.1 is made of (transformers' T5EncoderModel): its parameters, its
// architecture as far as their shapes tell it, and its memory.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "describe/parameter_list.h"
#include "describe/parameter_set.h"

namespace jitflux {

// What the tensors do not tell.
struct T5Settings {
  int64_t max_distance = 128;
  double eps = 1e-6;
};

struct T5Config {
  int64_t vocabulary = 0;
  int64_t width = 0;
  int64_t heads = 0;
  int64_t head_dim = 0;
  int64_t mlp = 0;
  int64_t layers = 0;
  int64_t buckets = 0;
  // From T5Settings.
  int64_t max_distance = 128;
  double eps = 1e-6;
  int64_t max_tokens = 512;  // FLUX's longest prompt
  // Name of the embedding: shared.weight or encoder.embed_tokens.weight.
  std::string embedding = "shared.weight";
};

void list_parameters(const T5Config& config, const ParameterSink& sink);

// Where the position bias of all blocks lies.
std::string t5_attention(int64_t block);
std::string t5_position_bias();

struct T5Weights {
  T5Config config;
  ParameterSet parameters;  // checked

  static bool recognises(const WeightFile& file);
  // Hugging Face names, below any prefix; the decoder of a whole T5 is left alone. Without
  // settings, what they would decide is left open. Throws kWeightsMismatch.
  static T5Weights resolve(std::shared_ptr<const WeightFile> file,
                           const std::optional<T5Settings>& settings);
};

// The blocks' matrices in 8 bits: how many numbers they have, and their bytes with the scales.
struct QuantizedSize {
  double parameters = 0;
  double bytes = 0;
};
QuantizedSize quantized_size(const T5Config& config);

// Activations of encoding `prompts` prompts of `tokens` tokens: residual and its norm, q, k, v and
// result, the gated MLP, scores and position bias. `element`: bytes of the compute type.
double transient_bytes(const T5Config& config, double tokens, double prompts, double element);

}  // namespace jitflux
