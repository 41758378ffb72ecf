// Maps a weight file onto the parameters of FLUX under the names of diffusers'
// FluxTransformer2DModel, whichever of the two key layouts (diffusers, original BFL) the file uses.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "describe/flux_config.h"
#include "describe/parameter_list.h"
#include "weights/weight_file.h"

namespace jitflux {

// All parameters of this architecture under diffusers' names, in the order of the forward pass.
void list_parameters(const FluxConfig& config, const ParameterSink& sink);

class FluxParameters {
 public:
  // Finds the layout and an optional common prefix ("transformer.", "model.diffusion_model.", ...),
  // infers the whole configuration from the shapes, and checks every parameter. All missing,
  // unexpected, misshaped and mistyped parameters are reported together, by name, in one
  // kWeightsMismatch error (details: missing, unexpected, misshaped, mistyped: string lists).
  // kUnsupportedFormat for quantised weights and adapters, see Mismatch::raise.
  // `rope_axes`: from a config.json if there is one; else the archive's axes_dims_rope attribute;
  // else 16,56,56 for head size 128 and (d/4, 3d/8, 3d/8) for others.
  static FluxParameters resolve(std::shared_ptr<const WeightFile> file,
                                std::optional<std::array<int64_t, 3>> rope_axes = std::nullopt);
  // The same, but where only the default is left and does not suit the head size the axes are 0.
  static FluxParameters describe(std::shared_ptr<const WeightFile> file);

  // Whether any name looks like one of a FLUX transformer's; false for CLIP, T5 and VAE.
  static bool recognises(const WeightFile& file);

  const FluxConfig& config() const { return config_; }
  const char* layout() const { return layout_; }  // "diffusers" | "original"
  const std::string& prefix() const { return prefix_; }
  const std::shared_ptr<const WeightFile>& file() const { return file_; }

  // All diffusers names of this configuration, in the order of the forward pass.
  const std::vector<std::string>& names() const { return names_; }

  uint64_t elements() const;  // of all parameters
  // Names of tensors below the prefix that are no part of the model.
  const std::vector<std::string>& extra() const { return extra_; }

  // The parameter as row blocks to be concatenated along dimension 0: one block, or two where the
  // original layout stores halves in the other order (norm_out.linear). Views into the file.
  const std::vector<WeightTensor>& pieces(const std::string& diffusers_name) const;

 private:
  static FluxParameters resolve(std::shared_ptr<const WeightFile> file,
                                std::optional<std::array<int64_t, 3>> rope_axes, bool need_axes);

  FluxConfig config_;
  const char* layout_ = "";
  std::string prefix_;
  std::shared_ptr<const WeightFile> file_;
  std::vector<std::string> names_;
  std::vector<std::string> extra_;
  std::map<std::string, std::vector<WeightTensor>> pieces_;
};

}  // namespace jitflux
