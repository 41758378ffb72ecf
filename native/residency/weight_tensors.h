// Parameters of a weight file as LibTorch tensors: the one place where a place in a file becomes a
// tensor.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>

#include "base/job.h"
#include "describe/parameter_set.h"
#include "layers/linear.h"
#include "residency/device_uploader.h"
#include "residency/quantized_linear.h"

namespace jitflux {

// Throws kWeightsMismatch for types that are not floating point.
at::ScalarType scalar_type(WeightDType dtype);

// out = the tensor, converted to the type of `out`: contiguous, on the CPU, as many elements. Read,
// not mapped. Throws Error kWeightsChanged.
void read_weight(const WeightTensor& tensor, const at::Tensor& out);

// The tensor in the file's mapping, which it keeps open, if the file may be mapped, holds it in
// this type, and it is large: nothing is copied, and processes share the pages. Undefined
// otherwise. Never to be written to. Before a result that was computed with it gets out,
// WeightFile's expect_unchanged_mappings() must not throw.
at::Tensor mapped_weight(const std::shared_ptr<const WeightFile>& file, const WeightTensor& tensor,
                         at::ScalarType dtype);

// Gives the pages of a mapped tensor back to the page cache.
void release_pages(const WeightTensor& tensor);

// Reads the parameters of a checked ParameterSet to current_device(). Polls the job and reports
// bytes through its progress.
class WeightLoader {
 public:
  WeightLoader(const ParameterSet& parameters, at::ScalarType dtype, const Job& job)
      : parameters_(parameters),
        dtype_(dtype),
        job_(job),
        total_(parameters.required_bytes()),
        file_(parameters.file()) {}

  // A contiguous copy in the given type, in memory of its own.
  at::Tensor copy(const std::string& name, at::ScalarType dtype);

  // In the compute type, on the CPU mapped where possible.
  at::Tensor matrix(const std::string& name);

  // <module>.weight, and <module>.bias if there is one.
  Linear linear(const std::string& module);

  // <module>.weight in 8 bits. There must be no bias.
  QuantizedLinear quantized(const std::string& module);

  // The file, if any tensor is in its mapping: the model asks it whether it is as it was.
  std::shared_ptr<const WeightFile> mapped_file() const { return mapped_ ? file_ : nullptr; }

 private:
  void advance(const WeightTensor& tensor, const std::string& name);

  const ParameterSet& parameters_;
  at::ScalarType dtype_;
  const Job& job_;
  uint64_t total_;
  uint64_t loaded_ = 0;
  std::shared_ptr<const WeightFile> file_;
  bool mapped_ = false;
  std::unique_ptr<DeviceUploader> uploader_;  // once something goes to a device
};

}  // namespace jitflux
