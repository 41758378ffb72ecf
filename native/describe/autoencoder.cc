#include "describe/autoencoder.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace jitflux {

namespace {

constexpr const char* kLandmark = "decoder.conv_in.weight";

}  // namespace

void list_parameters(const AutoencoderConfig& config, const ParameterSink& sink) {
  const AutoencoderNames up(config.original(), true);
  const AutoencoderNames down(config.original(), false);
  const auto levels = static_cast<int64_t>(config.channels.size());
  const int64_t top = config.channels.back();
  const int64_t latent = config.latent_channels;
  const auto module = [&](const std::string& name, const std::vector<int64_t>& weight) {
    sink(name + ".weight", weight);
    sink(name + ".bias", {weight[0]});
  };
  const auto residual = [&](const std::string& name, const AutoencoderNames& names, int64_t in,
                            int64_t out) {
    module(name + "norm1", {in});
    module(name + "conv1", {out, in, 3, 3});
    module(name + "norm2", {out});
    module(name + "conv2", {out, out, 3, 3});
    if (in != out) module(name + names.shortcut(), {out, in, 1, 1});
  };
  const auto network = [&](const AutoencoderNames& names, bool decoder) {
    int64_t width = decoder ? top : config.channels.front();
    module(names.root() + "conv_in", {width, decoder ? latent : config.picture_channels, 3, 3});
    for (int64_t i = 0; i < levels; ++i) {
      const int64_t out = config.channels[decoder ? levels - 1 - i : i];
      const int64_t blocks = config.layers_per_block + (decoder ? 1 : 0);
      for (int64_t j = 0; j < blocks; ++j) {
        residual(names.block(i, levels, j), names, j == 0 ? width : out, out);
      }
      width = out;
      if (i + 1 < levels) module(names.resample(i, levels), {out, out, 3, 3});
    }
    residual(names.middle(0), names, top, top);
    module(names.attention("norm"), {top});
    for (const char* part : {"q", "k", "v", "out"}) {
      module(names.attention(part), names.projection(top));
    }
    residual(names.middle(1), names, top, top);
    module(names.norm_out(), {width});
    module(names.root() + "conv_out",
           {decoder ? config.picture_channels : 2 * latent, width, 3, 3});
  };
  network(up, true);
  if (config.encoder) network(down, false);
  if (config.quant) module("quant_conv", {2 * latent, 2 * latent, 1, 1});
  if (config.post_quant) module("post_quant_conv", {latent, latent, 1, 1});
}

bool AutoencoderWeights::recognises(const WeightFile& file) {
  return ParameterSet::has_landmark(file, {kLandmark});
}

AutoencoderWeights AutoencoderWeights::resolve(std::shared_ptr<const WeightFile> file,
                                               const std::optional<AutoencoderSettings>& settings) {
  ParameterSet set = ParameterSet::locate(std::move(file), "a FLUX autoencoder", {kLandmark});
  AutoencoderConfig config;
  const bool original = set.any_below("decoder.up.") || set.any_below("decoder.mid.");
  config.names = original ? "original" : "diffusers";
  config.encoder = set.any_below("encoder.");
  config.quant = config.encoder && set.any_below("quant_conv.");
  config.post_quant = set.any_below("post_quant_conv.");
  const AutoencoderNames up(original, true);
  const int64_t levels = set.count(up.levels());
  for (int64_t i = levels - 1; i >= 0; --i) {
    config.channels.push_back(set.size(up.block(i, levels, 0) + "conv1.bias", 1, 0));
  }
  if (levels > kMaxAutoencoderLevels) {
    set.problem(std::to_string(levels) + " levels are too many");
  }
  config.layers_per_block = std::max<int64_t>(1, set.count(up.blocks(0, levels)) - 1);
  config.latent_channels = set.size(kLandmark, 4, 1);
  if (settings) {
    config.norm_groups = settings->norm_groups;
    config.eps = settings->eps;
    for (const int64_t channels : config.channels) {
      if (channels > 0 && channels % config.norm_groups != 0) {
        set.problem(std::to_string(channels) + " channels do not divide into " +
                    std::to_string(config.norm_groups) + " norm groups");
        break;
      }
    }
  }
  list_parameters(config, [&](const std::string& name, const std::vector<int64_t>& shape) {
    set.require(name, shape);
  });
  set.ignore("quant_conv.");  // beside a decoder alone
  // Siblings of the autoencoder in a whole checkpoint whose names share no prefix.
  set.ignore("loss.");
  set.check();
  return {std::move(config), std::move(set)};
}

double decode_bytes(const AutoencoderConfig& config, double h, double w, double element) {
  const auto channels = [&](size_t level) { return static_cast<double>(config.channels[level]); };
  const size_t levels = config.channels.size();
  double area = h * w;
  double width = channels(levels - 1);
  // The attention holds its input, the normed input, q, k, v, the result and its projection.
  double values = 7 * area * width;
  double held = 2 * width;  // channels of the map and its spare
  double own = width;       // channels of the buffer that the map lies in
  for (size_t i = levels; i-- > 0;) {
    const double out = channels(i);
    if (out != width) {
      const bool in_place = 2 * out <= width;
      values = std::max(values, area * (in_place ? own : own + 2 * out));
      held = in_place ? own : 2 * out;
      own = in_place ? own : out;
    } else {
      held = std::max(held, 2 * out);
    }
    width = out;
    values = std::max(values, area * held);
    if (i > 0) {
      values = std::max(values, area * (own + 4 * out));
      area *= 4;
      held = own = out;
    }
  }
  // A strip, what the convolution makes of it, the convolution's own scratch (more in bfloat16),
  // and slack for what LibTorch touches for the first time.
  const double row = std::ldexp(w, static_cast<int>(levels) - 1) * channels(0) * 2 * element;
  return values * element + 6 * std::max<double>(kStripBytes, kMinStripRows * row);
}

}  // namespace jitflux
