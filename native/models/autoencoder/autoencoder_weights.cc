// Loading: which parameters (describe/autoencoder.h) make up which layer.
#include <ATen/ops/empty.h>

#include "models/autoencoder/autoencoder.h"
#include "residency/weight_tensors.h"

namespace jitflux {

uint64_t Autoencoder::Network::blocks() const {
  uint64_t count = 5;  // both convolutions, the middle
  for (const Level& level : levels) count += level.blocks.size() + (level.resample ? 1 : 0);
  return count;
}

std::shared_ptr<Autoencoder> Autoencoder::load(std::shared_ptr<const WeightFile> file,
                                               const AutoencoderOptions& options, const Job& job) {
  const AutoencoderWeights weights = AutoencoderWeights::resolve(std::move(file), options);
  const ParameterSet& set = weights.parameters;
  const std::shared_ptr<Autoencoder> model(new Autoencoder());
  model->config_ = weights.config;
  const AutoencoderConfig& config = model->config_;
  const AutoencoderNames up(config.original(), true);
  const AutoencoderNames down(config.original(), false);
  const auto levels = static_cast<int64_t>(config.channels.size());

  model->dtype_ = options.dtype;
  WeightLoader from(set, options.dtype, job);
  const auto norm = [&](const std::string& name) {
    return Norm{from.copy(name + ".weight", at::kFloat), from.copy(name + ".bias", at::kFloat)};
  };
  const auto conv = [&](const std::string& name) {
    return Conv{
        from.copy(name + ".weight", options.dtype).contiguous(at::MemoryFormat::ChannelsLast),
        from.copy(name + ".bias", options.dtype)};
  };
  const auto pointwise = [&](const std::string& name) {
    Linear linear{from.copy(name + ".weight", options.dtype),
                  from.copy(name + ".bias", options.dtype)};
    linear.weight = linear.weight.view({linear.weight.size(0), linear.weight.size(1)});
    return linear;
  };
  const auto block = [&](const std::string& name, const AutoencoderNames& names) {
    ResidualBlock result{norm(name + "norm1"), conv(name + "conv1"), norm(name + "norm2"),
                         conv(name + "conv2"), std::nullopt};
    if (set.find(name + names.shortcut() + ".weight") != nullptr) {
      result.shortcut = pointwise(name + names.shortcut());
    }
    return result;
  };
  const auto network = [&](const AutoencoderNames& names, bool decoder) {
    Network result;
    result.in = conv(names.root() + "conv_in");
    for (int64_t i = 0; i < levels; ++i) {
      Level level;
      const int64_t blocks = config.layers_per_block + (decoder ? 1 : 0);
      for (int64_t j = 0; j < blocks; ++j) {
        level.blocks.push_back(block(names.block(i, levels, j), names));
      }
      if (i + 1 < levels) level.resample = conv(names.resample(i, levels));
      result.levels.push_back(std::move(level));
    }
    result.middle1 = block(names.middle(0), names);
    result.attention = {norm(names.attention("norm")), pointwise(names.attention("q")),
                        pointwise(names.attention("k")), pointwise(names.attention("v")),
                        pointwise(names.attention("out"))};
    result.middle2 = block(names.middle(1), names);
    result.norm_out = norm(names.norm_out());
    result.out = conv(names.root() + "conv_out");
    return result;
  };
  model->decoder_ = network(up, true);
  if (config.encoder) model->encoder_ = network(down, false);
  if (config.quant) model->quant_ = pointwise("quant_conv");
  if (config.post_quant) model->post_quant_ = pointwise("post_quant_conv");
  return model;
}

}  // namespace jitflux
