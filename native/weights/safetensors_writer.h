// The layout of a .safetensors file: see safetensors_reader.h for the format.
//
// Tensors of wider elements come first, as the reference implementation orders them, so that each
// lies at a multiple of its element size and can be read in place.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "weights/weight_layout.h"

namespace jitflux {

// `metadata`: keys and values of __metadata__. Throws Error kUnsupportedFormat for a name that the
// format cannot hold (not UTF-8, __metadata__), or a header over 100 MB.
std::unique_ptr<WeightLayout> layout_safetensors(
    const std::vector<TensorSpec>& tensors,
    const std::vector<std::pair<std::string, std::string>>& metadata);

}  // namespace jitflux
