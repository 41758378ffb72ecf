// Parameters of a weight file as LibTorch tensors: the one place where a pointer into a mapping
// becomes a tensor.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>

#include "base/job.h"
#include "describe/parameter_set.h"
#include "layers/linear.h"
#include "residency/device_uploader.h"

namespace jitflux {

// Throws kWeightsMismatch for types that are not floating point.
at::ScalarType scalar_type(WeightDType dtype);

// The tensor in the file itself: valid while the file is open, and never to be written to.
at::Tensor weight_view(const WeightTensor& tensor);

// The tensor in the file's mapping, which it keeps open, if the file holds it in this type and it
// is large: nothing is copied, and processes share the pages. Undefined otherwise.
at::Tensor mapped_weight(const std::shared_ptr<const WeightFile>& file, const WeightTensor& tensor,
                         at::ScalarType dtype);

// Gives the pages of a tensor that has been copied back to the page cache.
void release_pages(const WeightFile& file, const WeightTensor& tensor);

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

 private:
  void advance(const WeightTensor& tensor, const std::string& name);

  const ParameterSet& parameters_;
  at::ScalarType dtype_;
  const Job& job_;
  uint64_t total_;
  uint64_t loaded_ = 0;
  std::shared_ptr<const WeightFile> file_;
  std::unique_ptr<DeviceUploader> uploader_;  // once something goes to a device
};

}  // namespace jitflux
