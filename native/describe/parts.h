// The parts of a model that this engine knows, and which of them a weight file holds. A new type of
// part is a file of its own in this folder and a line in parts.cc.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>

#include "base/error.h"
#include "base/job.h"
#include "describe/autoencoder.h"
#include "describe/clip.h"
#include "describe/flux_parameters.h"
#include "describe/t5.h"
#include "weights/weight_file.h"

namespace jitflux {

using Architecture =
    std::variant<std::monostate, FluxConfig, ClipConfig, T5Config, AutoencoderConfig>;

struct PartDescription {
  std::string part;    // "transformer", "clip", "t5", "autoencoder"; empty: none that is known
  std::string layout;  // "diffusers" or "original", of the parts that have two
  std::string prefix;
  Architecture architecture;       // as far as the tensors tell it
  uint64_t parameters = 0;         // elements of the part's tensors, else of all
  std::vector<std::string> extra;  // tensors beside the part's own, which are not used
  std::optional<Error> problem;    // why there is no architecture
};

// Never throws for what the file holds. The part is the first of parts.cc that recognises its
// tensors.
PartDescription describe_part(const std::shared_ptr<const WeightFile>& file, const Job& job);

}  // namespace jitflux
