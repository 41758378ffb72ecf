// The layout of a TorchScript archive that holds nothing but weights: torch.jit.load opens it, and
// its named_parameters() are the tensors under the given names, requires_grad off. Tensors of
// other than floating types become buffers.
//
// Layout: see torchscript_reader.h. One module per dotted prefix; modules that look alike share a
// class of code/__torch__/jit_flux.py. Attributes are declared through __annotations__, as
// torch.jit.save does for "0" and other names that are no identifiers.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "weights/weight_layout.h"

namespace jitflux {

// `lists`: integer-list attributes of the root module. Throws Error kUnsupportedFormat for names
// that no module tree can have: an empty part, one that TorchScript cannot spell, a tensor that is
// also a module, more than 24 levels.
std::unique_ptr<WeightLayout> layout_torchscript(
    const std::vector<TensorSpec>& tensors,
    const std::vector<std::pair<std::string, std::vector<int64_t>>>& lists);

}  // namespace jitflux
