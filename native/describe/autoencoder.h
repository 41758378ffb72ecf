// What FLUX's AutoencoderKL is made of: its parameters under the names of diffusers or of the
// original ae.safetensors (black-forest-labs flux src/flux/modules/autoencoder.py, whose decoder
// counts its levels from the finest one), its architecture as far as their shapes tell it, and its
// memory.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "describe/parameter_list.h"
#include "describe/parameter_set.h"

namespace jitflux {

inline constexpr int64_t kMaxAutoencoderLevels = 8;

// What the tensors do not tell.
struct AutoencoderSettings {
  int64_t norm_groups = 32;
  double eps = 1e-6;
};

struct AutoencoderConfig {
  int64_t picture_channels = 3;
  int64_t latent_channels = 0;
  std::vector<int64_t> channels;  // of the levels, the finest first
  int64_t layers_per_block = 0;   // residual blocks per encoder level; the decoder has one more
  // From AutoencoderSettings.
  int64_t norm_groups = 32;
  double eps = 1e-6;
  bool encoder = false;    // the file has the encoder
  const char* names = "";  // "diffusers" | "original"
  // 1x1 convolutions around the latents; FLUX has none, its ancestors do.
  bool quant = false;
  bool post_quant = false;

  bool original() const { return names[0] == 'o'; }
  int64_t spatial_factor() const { return int64_t{1} << (channels.size() - 1); }
};

// What one part is called in the layout of the file. `decoder` picks the network, levels count in
// the order in which they run.
class AutoencoderNames {
 public:
  AutoencoderNames(bool original, bool decoder) : original_(original), decoder_(decoder) {}

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

void list_parameters(const AutoencoderConfig& config, const ParameterSink& sink);

struct AutoencoderWeights {
  AutoencoderConfig config;
  ParameterSet parameters;  // checked

  static bool recognises(const WeightFile& file);
  // Names of diffusers or the original, below any prefix. Without settings, what they would decide
  // is left open. Throws kWeightsMismatch.
  static AutoencoderWeights resolve(std::shared_ptr<const WeightFile> file,
                                    const std::optional<AutoencoderSettings>& settings);
};

// Input of one call of a convolution, which works on strips of rows: large enough to be efficient,
// also on an accelerator (130,000 pixels of 128 channels), small against a feature map.
inline constexpr int64_t kStripBytes = int64_t{32} << 20;
inline constexpr int64_t kMinStripRows = 8;

// Default budget of a decode's activations; above it, the decode is tiled.
inline constexpr int64_t kDecodeBudgetBytes = int64_t{2} << 30;

// Upper bound of the memory that decoding one picture (or tile) of h x w latent cells takes at its
// peak, besides weights and the finished picture; on accelerators besides cuDNN's own. `element`:
// bytes of the compute type.
double decode_bytes(const AutoencoderConfig& config, double h, double w, double element);

}  // namespace jitflux
