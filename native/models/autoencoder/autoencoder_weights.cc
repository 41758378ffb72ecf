// Loading: names of diffusers' AutoencoderKL, or of the original ae.safetensors (black-forest-labs
// flux src/flux/modules/autoencoder.py), whose decoder counts its levels from the finest one.
#include <ATen/ops/empty.h>

#include "models/autoencoder/autoencoder.h"
#include "residency/weight_tensors.h"

namespace jitflux {

// What one part is called in the layout of the file. `decoder` picks the network, levels count in
// the order in which they run.
class Autoencoder::Names {
 public:
  Names(bool original, bool decoder) : original_(original), decoder_(decoder) {}

  std::string root() const { return decoder_ ? "decoder." : "encoder."; }

  std::string levels() const {
    if (original_) return root() + (decoder_ ? "up." : "down.");
    return root() + (decoder_ ? "up_blocks." : "down_blocks.");
  }
  std::string level(int64_t i, int64_t count) const {
    return levels() + std::to_string(original_ && decoder_ ? count - 1 - i : i) + ".";
  }
  std::string blocks(int64_t i, int64_t count) const {
    return level(i, count) + (original_ ? "block." : "resnets.");
  }
  std::string block(int64_t i, int64_t count, int64_t j) const {
    return blocks(i, count) + std::to_string(j) + ".";
  }
  std::string resample(int64_t i, int64_t count) const {
    if (original_) return level(i, count) + (decoder_ ? "upsample.conv" : "downsample.conv");
    return level(i, count) + (decoder_ ? "upsamplers.0.conv" : "downsamplers.0.conv");
  }
  std::string shortcut() const { return original_ ? "nin_shortcut" : "conv_shortcut"; }
  std::string middle(int64_t j) const {
    return root() + (original_ ? "mid.block_" + std::to_string(j + 1) + "."
                               : "mid_block.resnets." + std::to_string(j) + ".");
  }
  // q, k, v, out or norm.
  std::string attention(const std::string& part) const {
    if (original_) return root() + "mid.attn_1." + (part == "out" ? "proj_out" : part);
    const std::string base = root() + "mid_block.attentions.0.";
    if (part == "norm") return base + "group_norm";
    return base + (part == "out" ? "to_out.0" : "to_" + part);
  }
  std::string norm_out() const { return root() + (original_ ? "norm_out" : "conv_norm_out"); }

  // The attention's projections are 1x1 convolutions in the original and linear in diffusers.
  std::vector<int64_t> projection(int64_t channels) const {
    if (original_) return {channels, channels, 1, 1};
    return {channels, channels};
  }

 private:
  bool original_;
  bool decoder_;
};

uint64_t Autoencoder::Network::blocks() const {
  uint64_t count = 5;  // both convolutions, the middle
  for (const Level& level : levels) count += level.blocks.size() + (level.resample ? 1 : 0);
  return count;
}

std::shared_ptr<Autoencoder> Autoencoder::load(std::shared_ptr<const WeightFile> file,
                                               const AutoencoderOptions& options, const Job& job) {
  ParameterSet set =
      ParameterSet::locate(std::move(file), "a FLUX autoencoder", {"decoder.conv_in.weight"});
  const std::shared_ptr<Autoencoder> model(new Autoencoder());
  AutoencoderConfig& config = model->config_;
  const bool original = set.any_below("decoder.up.") || set.any_below("decoder.mid.");
  config.names = original ? "original" : "diffusers";
  config.norm_groups = options.norm_groups;
  config.eps = options.eps;
  config.encoder = set.any_below("encoder.");
  const Names up(original, true);
  const Names down(original, false);

  // Sizes.
  const int64_t levels = set.count(up.levels());
  for (int64_t i = levels - 1; i >= 0; --i) {
    config.channels.push_back(set.size(up.block(i, levels, 0) + "conv1.bias", 1, 0));
  }
  if (levels > 8) set.problem(std::to_string(levels) + " levels are too many");
  config.layers_per_block = std::max<int64_t>(1, set.count(up.blocks(0, levels)) - 1);
  config.latent_channels = set.size("decoder.conv_in.weight", 4, 1);
  config.picture_channels = 3;
  for (const int64_t channels : config.channels) {
    if (channels > 0 && channels % config.norm_groups != 0) {
      set.problem(std::to_string(channels) + " channels do not divide into " +
                  std::to_string(config.norm_groups) + " norm groups");
      break;
    }
  }
  const int64_t top = config.channels.back();

  // Requirements.
  const auto require = [&](const std::string& module, const std::vector<int64_t>& weight) {
    set.require(module + ".weight", weight);
    set.require(module + ".bias", {weight[0]});
  };
  const auto require_block = [&](const std::string& name, const Names& names, int64_t in,
                                 int64_t out) {
    require(name + "norm1", {in});
    require(name + "conv1", {out, in, 3, 3});
    require(name + "norm2", {out});
    require(name + "conv2", {out, out, 3, 3});
    if (in != out) require(name + names.shortcut(), {out, in, 1, 1});
  };
  const auto require_network = [&](const Names& names, bool decoder) {
    int64_t width = decoder ? top : config.channels.front();
    require(names.root() + "conv_in",
            {width, decoder ? config.latent_channels : config.picture_channels, 3, 3});
    for (int64_t i = 0; i < levels; ++i) {
      const int64_t out = config.channels[decoder ? levels - 1 - i : i];
      const int64_t blocks = config.layers_per_block + (decoder ? 1 : 0);
      for (int64_t j = 0; j < blocks; ++j) {
        require_block(names.block(i, levels, j), names, j == 0 ? width : out, out);
      }
      width = out;
      if (i + 1 < levels) require(names.resample(i, levels), {out, out, 3, 3});
    }
    require_block(names.middle(0), names, top, top);
    require(names.attention("norm"), {top});
    for (const char* part : {"q", "k", "v", "out"}) {
      require(names.attention(part), names.projection(top));
    }
    require_block(names.middle(1), names, top, top);
    require(names.norm_out(), {width});
    require(names.root() + "conv_out",
            {decoder ? config.picture_channels : 2 * config.latent_channels, width, 3, 3});
  };
  require_network(up, true);
  if (config.encoder) require_network(down, false);
  const int64_t latent = config.latent_channels;
  const bool quant = config.encoder && set.any_below("quant_conv.");
  const bool post_quant = set.any_below("post_quant_conv.");
  if (quant) require("quant_conv", {2 * latent, 2 * latent, 1, 1});
  if (post_quant) require("post_quant_conv", {latent, latent, 1, 1});
  set.ignore("quant_conv.");  // beside a decoder alone
  // Siblings of the autoencoder in a whole checkpoint whose names share no prefix.
  set.ignore("loss.");
  set.check();

  // Tensors.
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
  const auto block = [&](const std::string& name, const Names& names) {
    ResidualBlock result{norm(name + "norm1"), conv(name + "conv1"), norm(name + "norm2"),
                         conv(name + "conv2"), std::nullopt};
    if (set.find(name + names.shortcut() + ".weight") != nullptr) {
      result.shortcut = pointwise(name + names.shortcut());
    }
    return result;
  };
  const auto network = [&](const Names& names, bool decoder) {
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
  if (quant) model->quant_ = pointwise("quant_conv");
  if (post_quant) model->post_quant_ = pointwise("post_quant_conv");
  return model;
}

}  // namespace jitflux
