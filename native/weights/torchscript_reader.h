// Tensors of a TorchScript archive, taken from its data.pkl without running the archive's code.
//
// Layout written by torch.jit.save (torch/csrc/jit/serialization/export_module.cpp), all below one
// root folder: data.pkl (the module tree), data/<n> (storages, stored and 64-byte aligned),
// constants.pkl, code/**, version or .data/version, byteorder.
//
// Names: attributes by their path, lists and tuples by index, dicts by string or integer key. The
// state that a module's __getstate__ wrote is named the same way; its __setstate__ never runs.
#pragma once

#include <memory>
#include <string>

#include "weights/input_file.h"
#include "weights/weight_file.h"

namespace jitflux {

// Throws Error:
//   kUnsupportedFormat  a plain torch.save pickle or another archive; big-endian; tensors that are
//                       quantised, sparse, complex or of another type than those of WeightDType
//   kCorruptFile        truncated, inconsistent, a record missing or shorter than its tensor says
//   kUnsafeFile         see pickle_reader.h and zip_reader.h; compressed or encrypted weights;
//                       expanded tensors (more elements than their storage); absurd counts
std::shared_ptr<const WeightFile> open_torchscript(InputFile file, const OpenOptions& options);

}  // namespace jitflux
