#include "describe/t5.h"

#include <utility>
#include <vector>

namespace jitflux {

namespace {

constexpr const char* kShared = "shared.weight";
const std::vector<std::string>& landmarks() {
  static const std::vector<std::string> names = {t5_attention(0) + "q.weight",
                                                 "encoder.final_layer_norm.weight"};
  return names;
}

// All parameters; queries of width `inner` = heads * head_dim, which may not divide in a bad file.
void list(const T5Config& config, int64_t inner, const ParameterSink& sink) {
  const int64_t d = config.width;
  sink(config.embedding, {config.vocabulary, d});
  sink(t5_position_bias(), {config.buckets, config.heads});
  for (int64_t i = 0; i < config.layers; ++i) {
    const std::string layer = "encoder.block." + std::to_string(i) + ".layer.";
    sink(layer + "0.layer_norm.weight", {d});
    for (const char* name : {"q", "k", "v"}) sink(t5_attention(i) + name + ".weight", {inner, d});
    sink(t5_attention(i) + "o.weight", {d, inner});
    sink(layer + "1.layer_norm.weight", {d});
    sink(layer + "1.DenseReluDense.wi_0.weight", {config.mlp, d});
    sink(layer + "1.DenseReluDense.wi_1.weight", {config.mlp, d});
    sink(layer + "1.DenseReluDense.wo.weight", {d, config.mlp});
  }
  sink("encoder.final_layer_norm.weight", {d});
}

}  // namespace

std::string t5_attention(int64_t block) {
  return "encoder.block." + std::to_string(block) + ".layer.0.SelfAttention.";
}

std::string t5_position_bias() { return t5_attention(0) + "relative_attention_bias.weight"; }

void list_parameters(const T5Config& config, const ParameterSink& sink) {
  list(config, config.heads * config.head_dim, sink);
}

bool T5Weights::recognises(const WeightFile& file) {
  return ParameterSet::has_landmark(file, landmarks());
}

T5Weights T5Weights::resolve(std::shared_ptr<const WeightFile> file,
                             const std::optional<T5Settings>& settings) {
  ParameterSet set = ParameterSet::locate(std::move(file), "a T5 encoder", landmarks());
  T5Config config;
  const bool shared = set.find(kShared) != nullptr;
  config.embedding = shared ? kShared : "encoder.embed_tokens.weight";
  config.vocabulary = set.size(config.embedding, 2, 0);
  config.width = set.size(config.embedding, 2, 1);
  config.buckets = set.size(t5_position_bias(), 2, 0);
  config.heads = set.size(t5_position_bias(), 2, 1);
  config.layers = set.count("encoder.block.");
  config.mlp = set.size("encoder.block.0.layer.1.DenseReluDense.wi_0.weight", 2, 0);
  const int64_t inner = set.size(t5_attention(0) + "q.weight", 2, 0);
  if (settings) {
    config.max_distance = settings->max_distance;
    config.eps = settings->eps;
    if (config.buckets > 0 && (config.buckets < 4 || config.buckets % 2 != 0 ||
                               config.max_distance <= config.buckets / 4)) {
      set.problem(std::to_string(config.buckets) +
                  " position buckets do not go with a distance of " +
                  std::to_string(config.max_distance));
    }
  }
  if (inner > 0 && config.heads > 0) {
    config.head_dim = inner / config.heads;
    if (inner % config.heads != 0) {
      set.problem("queries of width " + std::to_string(inner) + " do not divide into " +
                  std::to_string(config.heads) + " heads");
    }
  }
  list(config, inner, [&](const std::string& name, const std::vector<int64_t>& shape) {
    set.require(name, shape);
  });
  // The rest of a whole T5, and the second name of the embedding.
  set.ignore("decoder.");
  set.ignore("lm_head.");
  if (shared) set.ignore("encoder.embed_tokens.");
  set.check();
  return {config, std::move(set)};
}

QuantizedSize quantized_size(const T5Config& config) {
  QuantizedSize size;
  list_parameters(config, [&](const std::string& name, const std::vector<int64_t>& shape) {
    if (shape.size() != 2 || name == config.embedding || name == t5_position_bias()) return;
    const auto rows = static_cast<double>(shape[0]);
    const double count = rows * static_cast<double>(shape[1]);
    size.parameters += count;
    // A scale and oneDNN's sum of every row.
    size.bytes += count + 8 * rows;
  });
  return size;
}

double transient_bytes(const T5Config& config, double tokens, double prompts, double element) {
  const auto width = static_cast<double>(config.width);
  const auto mlp = static_cast<double>(config.mlp);
  const auto heads = static_cast<double>(config.heads);
  const double inner = heads * static_cast<double>(config.head_dim);
  const double rows = prompts * tokens;
  const double scores = (prompts + 1) * heads * tokens * tokens * 4;
  return rows * (2 * 4 * width + element * (width + 4 * inner + 3 * mlp)) + scores;
}

}  // namespace jitflux
