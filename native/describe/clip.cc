#include "describe/clip.h"

#include <algorithm>
#include <string>
#include <utility>

namespace jitflux {

namespace {

constexpr const char* kTokens = "embeddings.token_embedding.weight";

}  // namespace

void list_parameters(const ClipConfig& config, const ParameterSink& sink) {
  const int64_t d = config.width;
  const auto module = [&](const std::string& name, const std::vector<int64_t>& weight) {
    sink(name + ".weight", weight);
    sink(name + ".bias", {weight[0]});
  };
  sink(kTokens, {config.vocabulary, d});
  sink("embeddings.position_embedding.weight", {config.positions, d});
  for (int64_t i = 0; i < config.layers; ++i) {
    const std::string layer = "encoder.layers." + std::to_string(i) + ".";
    module(layer + "layer_norm1", {d});
    for (const char* name : {"q_proj", "k_proj", "v_proj", "out_proj"}) {
      module(layer + "self_attn." + name, {d, d});
    }
    module(layer + "layer_norm2", {d});
    module(layer + "mlp.fc1", {config.mlp, d});
    module(layer + "mlp.fc2", {d, config.mlp});
  }
  module("final_layer_norm", {d});
}

bool ClipWeights::recognises(const WeightFile& file) {
  return ParameterSet::has_landmark(file, {kTokens});
}

ClipWeights ClipWeights::resolve(std::shared_ptr<const WeightFile> file,
                                 const std::optional<ClipSettings>& settings) {
  ParameterSet set = ParameterSet::locate(std::move(file), "a CLIP text encoder", {kTokens});
  ClipConfig config;
  config.vocabulary = set.size(kTokens, 2, 0);
  config.width = set.size(kTokens, 2, 1);
  config.positions = set.size("embeddings.position_embedding.weight", 2, 0);
  config.layers = set.count("encoder.layers.");
  config.mlp = set.size("encoder.layers.0.mlp.fc1.weight", 2, 0);
  if (settings) {
    config.heads = settings->heads > 0 ? settings->heads : std::max<int64_t>(1, config.width / 64);
    config.eps = settings->eps;
    config.end_of_text = settings->end_of_text;
    if (settings->heads == 0 && config.width > 0 && config.width % 64 != 0) {
      set.problem("the width " + std::to_string(config.width) +
                  " does not divide into heads of 64: a config.json must give num_attention_heads");
    } else if (config.width > 0 && config.width % config.heads != 0) {
      set.problem("the width " + std::to_string(config.width) + " does not divide into " +
                  std::to_string(config.heads) + " heads");
    }
  }
  list_parameters(config, [&](const std::string& name, const std::vector<int64_t>& shape) {
    set.require(name, shape);
  });
  // An integer buffer of old checkpoints, and the projection of CLIPTextModelWithProjection, which
  // stands beside the model when its names have no "text_model.".
  set.ignore("embeddings.position_ids");
  set.ignore("text_projection");
  set.check();
  return {config, std::move(set)};
}

double transient_bytes(const ClipConfig& config, double prompts, double element) {
  const auto width = static_cast<double>(config.width);
  const auto mlp = static_cast<double>(config.mlp);
  const double tokens = prompts * static_cast<double>(config.positions);
  return tokens * ((2 * 4 + 5 * element) * width + 2 * element * mlp);
}

}  // namespace jitflux
