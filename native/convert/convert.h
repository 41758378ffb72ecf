// Rewrites a weight file as a TorchScript archive or a safetensors file.
//
// A FLUX transformer in either key layout comes out under diffusers' names; every other component
// tensor by tensor under its own. Tensors go one after another through a small buffer to
// `<output>.partial`, whose journal `<output>.partial.json` lets an interrupted conversion go on;
// the finished file is renamed into place. Equal input and options, equal bytes.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/job.h"
#include "weights/float_conversion.h"
#include "weights/weight_file.h"

namespace jitflux {

constexpr size_t kMaxInfiniteNames = 8;

enum class OutputFormat { kTorchScript, kSafetensors };

struct ConvertOptions {
  OutputFormat format = OutputFormat::kTorchScript;
  std::optional<WeightDType> dtype;  // of floating tensors; absent: each keeps its own
  bool resume = true;  // go on where an interrupted conversion stopped, and leave what is needed to
  bool verify = false;  // check the CRC-32 of a TorchScript archive's records first
  std::optional<std::array<int64_t, 3>> rope_axes;  // see FluxParameters::resolve
  // Identity of a conversion that was completed earlier: if this is the same one and the output
  // has the right size, nothing is done.
  std::string completed;
};

struct ConvertResult {
  std::string layout;  // "diffusers" or "original" for a FLUX transformer, else ""
  uint64_t tensors = 0;
  uint64_t skipped_tensors = 0;  // of the input, outside the transformer's prefix
  uint64_t file_bytes = 0;
  uint64_t resumed_bytes = 0;  // tensor data that an earlier run had written
  // What the narrower type could not hold, those of the bytes resumed included; zeros if `reused`.
  ConversionLoss loss;
  std::vector<std::string> infinite_tensors;  // the first kMaxInfiniteNames with such elements
  bool reused = false;   // the output was there already, see ConvertOptions::completed
  std::string identity;  // of sources (names, sizes, times, tensors) and options
};

// `job` is polled and told of progress (bytes of tensor data) every few megabytes. Throws Error:
// those of WeightFile::open and FluxParameters::resolve; kUnsupportedFormat (see the writers);
// kWriteFailed; kWeightsChanged (the input, meanwhile); kAborted. After any of them the output is
// as it was before. After kAborted with `resume` the partial file stays (details: partial, its
// path), after all others it is gone.
ConvertResult convert_weights(const std::string& input, const std::string& output,
                              const ConvertOptions& options, const Job& job);

}  // namespace jitflux
