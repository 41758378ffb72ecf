// How much memory a part of a model takes, from its architecture and the sizes of a request.
// Estimates, on the safe side by some percent; docs/models.md compares them with measurements.
// Bytes and counts are doubles, exact up to 2^53.
#pragma once

#include <optional>

#include "describe/flux_layers.h"
#include "describe/parts.h"
#include "weights/weight_file.h"

namespace jitflux {

// What the part has to do.
struct MemoryWork {
  double rows = 0;  // of image tokens
  double cols = 0;
  double text_tokens = 0;
  double images = 1;
  double steps = 1;  // their modulation vectors are computed in advance
  double runs = 1;   // requests at a time, each with latents and conditioning of its own

  double image_tokens() const { return rows * cols; }
};

struct MemoryRequest {
  Architecture architecture;          // monostate: not known
  std::optional<double> parameters;   // as counted in the file
  std::optional<WeightDType> stored;  // type of most weights in the file
  double file_bytes = 0;
  WeightDType dtype = WeightDType::kFloat32;  // to compute in
  bool accelerator = false;
  WeightForm form = WeightForm::kPacked;  // of the blocks of a transformer or of T5
  bool keep_modulation = true;
  bool map_weights = true;  // weights may be used from the mapped file
  MemoryWork work;

  double element() const { return static_cast<double>(element_size(dtype)); }
};

struct ComponentMemory {
  std::optional<double> parameters;
  double resident = 0;  // bytes of weights in the device's memory
  // The part of them that is a copy. The rest is used from the mapped file: the system may drop
  // those pages while they are not in use, and read them again.
  double copied = 0;
  std::optional<double> streamed;  // weights that wait in page-locked host memory
  bool mapped = false;             // any of the weights are used from the mapped file
  double transient = 0;  // what the part needs besides its weights while it works, at most
};

ComponentMemory component_memory(const MemoryRequest& request);

// What a type of part says of itself, in part_memory(architecture, request).
struct PartMemory {
  double parameters = 0;
  // Bytes that are copied although the file holds the compute type; absent: all.
  std::optional<double> copied = {};
  double saved = 0;  // bytes that the chosen form spares in the device's memory
  std::optional<double> streamed = {};
  double transient = 0;
};
PartMemory part_memory(const FluxConfig& config, const MemoryRequest& request);
PartMemory part_memory(const ClipConfig& config, const MemoryRequest& request);
PartMemory part_memory(const T5Config& config, const MemoryRequest& request);
PartMemory part_memory(const AutoencoderConfig& config, const MemoryRequest& request);

}  // namespace jitflux
