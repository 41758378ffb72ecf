// Linear layers of the transformer's blocks. On the CPU: weights in the form in which oneDNN
// multiplies them fastest, prepared when a layer is first used, so that loading a model reads no
// weights. On an accelerator: in its memory, or on their way there.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "describe/flux_layers.h"
#include "layers/layer_rows.h"
#include "layers/linear.h"
#include "residency/flux_weight_reader.h"
#include "residency/quantized_linear.h"

namespace jitflux {

class PackedLinear {
 public:
  PackedLinear() = default;
  // The modules' outputs side by side (q, k, v), in the reader's type.
  PackedLinear(std::shared_ptr<const FluxWeightReader> reader, std::vector<std::string> modules,
               WeightForm form)
      : reader_(std::move(reader)), modules_(std::move(modules)), form_(form) {}

  // y = x W^T + b, then the post-op; kInt8 layers take none. Prepares the weights if it is the
  // first call: on the inference thread only.
  LayerOutput operator()(const LayerInput& x, PostOp post = PostOp::kNone);

  // As above into y, [rows, out] contiguous (accelerators only).
  LayerOutput into(const at::Tensor& y, const LayerInput& x, PostOp post = PostOp::kNone);

  // Reads the weights now. For kResident, while the model is loaded.
  void prepare();
  // Unless that has been done.
  void prepare_if_needed() {
    if (!linear_.weight.defined() && !quantized_.defined()) prepare();
  }

  // For kStreamed: what the weights are read from, and where they are until further notice.
  const std::vector<std::string>& modules() const { return modules_; }
  void bind(Linear linear) { linear_ = std::move(linear); }

 private:
  const Linear& used();
  std::shared_ptr<const FluxWeightReader> reader_;
  std::vector<std::string> modules_;
  WeightForm form_ = WeightForm::kMapped;
  Linear linear_;              // undefined until prepared
  QuantizedLinear quantized_;  // in place of linear_'s weight, for kInt8
};

}  // namespace jitflux
