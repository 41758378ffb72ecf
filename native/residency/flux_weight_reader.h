// Parameters of a FLUX transformer, by diffusers name, as tensors of the compute type.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "describe/flux_parameters.h"
#include "layers/linear.h"
#include "residency/device_uploader.h"

namespace jitflux {

class FluxWeightReader {
 public:
  FluxWeightReader(std::shared_ptr<const FluxParameters> parameters, at::ScalarType dtype)
      : parameters_(std::move(parameters)), dtype_(dtype) {}

  const FluxParameters& parameters() const { return *parameters_; }
  at::ScalarType dtype() const { return dtype_; }

  // The named parameters one below the other, on current_device(). On the CPU a single one stays in
  // the file's mapping if it can (mapped_weight). Otherwise a copy, which is read and not mapped.
  at::Tensor rows(const std::vector<std::string>& names, at::ScalarType dtype,
                  bool may_map = true) const;

  // Weights and biases of modules whose outputs stand side by side (q, k, v). Every matrix of the
  // transformer's blocks comes through here or through read_linear when its layer is first prepared
  // (PackedLinear::prepare, BlockStreamer), before it is packed or quantised: a LoRA's W += scale *
  // up down merges here, into a copy, since a mapped weight must not be written to.
  // `may_map`: false for weights that are about to be packed or quantised.
  Linear linear(const std::vector<std::string>& modules, bool may_map = true) const;
  Linear linear(const std::string& module) const {
    return linear(std::vector<std::string>{module});
  }

  // What linear() would return: [outputs, inputs].
  std::vector<int64_t> linear_shape(const std::vector<std::string>& modules) const;
  // Copies it into host memory of the right shapes and type.
  void read_linear(const std::vector<std::string>& modules, const at::Tensor& weight,
                   const at::Tensor& bias) const;

  // RMSNorm weights stay in float32, in which the kernels compute.
  at::Tensor norm(const std::string& module) const {
    return rows({module + ".weight"}, at::kFloat);
  }

  // Gives back the memory of the mapped pages of a module; they are read again when touched again.
  void release(const std::string& module) const;

  // See WeightFile; between blocks, and before a result gets out.
  void expect_unchanged() const { parameters_->file()->expect_unchanged_mappings(); }
  bool may_map() const { return parameters_->file()->may_map(); }
  // Everything has been read, and nothing is mapped.
  void close() const { parameters_->file()->close(); }

  // Gives back what uploads have staged; the next one stages anew.
  void release_staging() const { uploader_.reset(); }

  // Bytes in the file.
  uint64_t bytes(const std::string& name) const;

 private:
  std::vector<WeightTensor> pieces(const std::vector<std::string>& names) const;

  std::shared_ptr<const FluxParameters> parameters_;
  at::ScalarType dtype_;
  mutable std::unique_ptr<DeviceUploader> uploader_;  // once something goes to a device
};

}  // namespace jitflux
