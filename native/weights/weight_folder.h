// Which file of a folder holds its weights.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace jitflux {

// The weight file of a component's folder, as snapshots have it: a safetensors index, or one
// .safetensors or .pt file. Nothing of the files is read. Returns its path, nothing if there is no
// such folder or no weights in it.
//
// Names follow Hugging Face: <base>[.<variant>], shards -00001-of-00003 with the variant before or
// after the number, indices .safetensors.index[.<variant>].json or
// .safetensors.<variant>.index.json. `variant` is preferred where the folder has it; else weights
// without a variant, else the only variant. Of several bases the one that libraries write by
// default, else the one with an index. An index without any of its shards gives way to a single
// file.
//
// Throws kUnsupportedFormat (details: path, candidates) if several could be meant, or if there are
// shards without their index; kFileNotFound if the folder cannot be listed.
std::optional<std::string> find_folder_weights(const std::string& folder,
                                               const std::string& variant = {});

// The same choice among names. Sorted.
std::optional<std::string> choose_weights(const std::string& folder,
                                          const std::vector<std::string>& names,
                                          const std::string& variant);

}  // namespace jitflux
