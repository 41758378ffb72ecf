// Tensors of a .safetensors file, or of a sharded set with a *.safetensors.index.json.
//
// Format (github.com/huggingface/safetensors, README "Format"): u64 header length, JSON header
// {name: {dtype, shape, data_offsets: [begin, end]}, __metadata__: {...}}, then the data; offsets
// count from the end of the header. Index (huggingface_hub): {metadata, weight_map: {name: shard}}.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "weights/input_file.h"
#include "weights/weight_file.h"

namespace jitflux {

// Metadata key of three comma-separated numbers; read into int_lists() as a TorchScript archive's
// attribute of this name is. The tensors do not tell them, and a single file has no config.json.
inline constexpr const char* kAxesMetadata = "axes_dims_rope";

// Whether the bytes look like a safetensors file (a small length, then '{'), whole or truncated.
bool looks_like_safetensors(std::span<const std::byte> bytes);

// Throws Error:
//   kUnsupportedFormat  a tensor of an element type outside WeightDType (F8_E4M3, U16, ...)
//   kCorruptFile        truncated, bad JSON, offsets out of bounds, sizes unlike shape x dtype,
//                       overlapping tensors, duplicate names
//   kUnsafeFile         a header over 100 MB, absurd counts, names or ranks
std::shared_ptr<const WeightFile> open_safetensors(InputFile file, const OpenOptions& options);

// Also throws kFileNotFound (a shard is missing), kUnsafeFile (a shard that is not a plain file
// name beside the index), kCorruptFile (a listed tensor is not in its shard). Tensors that the
// index does not list are ignored.
std::shared_ptr<const WeightFile> open_safetensors_index(const InputFile& index,
                                                         const OpenOptions& options);

}  // namespace jitflux
