// What CLIP's text encoder is made of (transformers' CLIPTextModel, as FLUX uses it): its
// parameters, its architecture as far as their shapes tell it, and its memory.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "describe/parameter_list.h"
#include "describe/parameter_set.h"

namespace jitflux {

// What the tensors do not tell.
struct ClipSettings {
  int64_t heads = 0;  // 0: heads of 64, as in every published CLIP
  double eps = 1e-5;
  // Token at which the pooled vector is taken. 2 means "the largest id", as in transformers: old
  // configurations, those of FLUX among them, carry it by mistake.
  int64_t end_of_text = 2;
};

struct ClipConfig {
  int64_t vocabulary = 0;
  int64_t positions = 0;  // longest text, 77
  int64_t width = 0;
  int64_t mlp = 0;
  int64_t layers = 0;
  // From ClipSettings; heads 0 if none were given.
  int64_t heads = 0;
  double eps = 1e-5;
  int64_t end_of_text = 2;
};

// Hugging Face names without "text_model.".
void list_parameters(const ClipConfig& config, const ParameterSink& sink);

struct ClipWeights {
  ClipConfig config;
  ParameterSet parameters;  // checked

  static bool recognises(const WeightFile& file);
  // Hugging Face names, below any prefix, with or without "text_model.". Without settings, what
  // they would decide is left open. Throws kWeightsMismatch.
  static ClipWeights resolve(std::shared_ptr<const WeightFile> file,
                             const std::optional<ClipSettings>& settings);
};

// Activations of encoding `prompts` prompts; `element`: bytes of the compute type.
double transient_bytes(const ClipConfig& config, double prompts, double element);

}  // namespace jitflux
