// Memory of a FLUX transformer.
#include <algorithm>
#include <map>
#include <string>

#include "describe/memory.h"

namespace jitflux {

namespace {

// Sizes of a transformer's layers, added up.
struct Sums {
  double parameters = 0;
  double block = 0;          // parameters of the blocks' layers, which can be packed or quantised
  double fused = 0;          // of those, of layers that are several modules of the file
  double modulation = 0;     // parameters of adaptive norms
  double modulated = 0;      // their outputs
  double largest_layer = 0;  // weights, without biases
  double largest_block = 0;  // weights of the layers
};

Sums add_up(const FluxConfig& config) {
  std::map<std::string, std::vector<int64_t>> shapes;
  Sums sums;
  list_parameters(config, [&](const std::string& name, const std::vector<int64_t>& shape) {
    sums.parameters += elements(shape);
    shapes.emplace(name, shape);
  });
  const auto weights = [&](const std::string& module) {
    return elements(shapes.at(module + ".weight"));
  };
  const auto biases = [&](const std::string& module) {
    return elements(shapes.at(module + ".bias"));
  };
  const auto modulate = [&](const std::string& module) {
    sums.modulation += weights(module) + biases(module);
    sums.modulated += biases(module);
  };
  // Returns the layers' weights.
  const auto add_layers = [&](const std::vector<Modules>& layers) {
    double all = 0;
    for (const Modules& modules : layers) {
      double layer = 0;
      double bias = 0;
      for (const std::string& module : modules) {
        layer += weights(module);
        bias += biases(module);
      }
      sums.block += layer + bias;
      if (modules.size() > 1) sums.fused += layer + bias;
      sums.largest_layer = std::max(sums.largest_layer, layer);
      all += layer;
    }
    return all;
  };
  for (int64_t i = 0; i < config.double_blocks; ++i) {
    double block = 0;
    for (const FluxStreamModules& stream : {flux_image_stream(i), flux_text_stream(i)}) {
      modulate(stream.modulation);
      block += add_layers(stream.layers());
    }
    sums.largest_block = std::max(sums.largest_block, block);
  }
  for (int64_t i = 0; i < config.single_blocks; ++i) {
    const FluxSingleModules block = flux_single_block(i);
    modulate(block.modulation);
    sums.largest_block = std::max(sums.largest_block, add_layers(block.layers()));
  }
  modulate(kFluxFinalModulation);
  return sums;
}

// What sampling takes: the workspace (residual, norm, the fused projections of a single block, its
// input to the last one, q, k, v, k and v packed, attention and projection), the preparation of
// weights, modulation of all steps, text tokens, and the sampler's latents.
double sampling_bytes(const FluxConfig& config, const Sums& sums, const MemoryRequest& request) {
  const MemoryWork& work = request.work;
  const double element = request.element();
  const auto d = static_cast<double>(config.hidden());
  const auto mlp = static_cast<double>(config.mlp());
  const double image_tokens = work.image_tokens();
  const double rows = work.images * (image_tokens + work.text_tokens);
  // Without bfloat16 dot products attention packs k and v in float32.
  const double packed = 2 * d * 4;
  const double workspace = rows * ((11 * d + 2 * mlp) * element + packed);
  // The largest layer while it is packed: fused, and its packed copy.
  const double preparing = 2 * sums.largest_layer * element;
  const double modulation = work.steps * work.images * sums.modulated * 4;
  const double text =
      work.images * work.text_tokens * (d * element + static_cast<double>(config.text_dim) * 4);
  const double latents =
      8 * work.images * image_tokens * static_cast<double>(config.in_channels) * 4;
  const double rope = image_tokens * static_cast<double>(config.head_dim) * 8;
  return workspace + preparing + work.runs * (modulation + text + latents) + rope;
}

}  // namespace

PartMemory part_memory(const FluxConfig& config, const MemoryRequest& request) {
  const Sums sums = add_up(config);
  const double element = request.element();
  PartMemory memory;
  memory.parameters = sums.parameters;
  memory.transient = sampling_bytes(config, sums, request);
  const double block_bytes = sums.block * element;
  switch (request.form) {
    case WeightForm::kMapped:
      memory.copied = sums.fused * element;
      break;
    case WeightForm::kInt8:
      memory.copied = sums.block;
      memory.saved = sums.block * (element - 1);
      break;
    case WeightForm::kStreamed:
      memory.copied = block_bytes;
      memory.streamed = block_bytes;
      memory.saved = std::max(
          0.0, block_bytes - static_cast<double>(kStreamedSlots) * sums.largest_block * element);
      break;
    case WeightForm::kPacked:
    case WeightForm::kResident:
      memory.copied = block_bytes;
      break;
  }
  if (!request.keep_modulation) memory.saved += sums.modulation * element;
  return memory;
}

}  // namespace jitflux
