// Linear layers of the transformer's blocks. On the CPU: weights in the form in which oneDNN
// multiplies them fastest, prepared when a layer is first used, so that loading a model reads no
// weights. On an accelerator: in its memory, or on their way there.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

<<<<<<< HEAD
#include "layers/layer_rows.h"
=======
#include "describe/flux_layers.h"
#include "kernels/kernels.h"
>>>>>>> ba83cad (Each part of a model states its tensors, architecture and memory once, without LibTorch; describeWeights and componentMemory)
#include "layers/linear.h"
#include "residency/flux_weight_reader.h"

namespace jitflux {

<<<<<<< HEAD
enum class WeightForm {
  kMapped,  // as the file holds them: shared between processes, dropped under memory pressure
  kPacked,  // reordered into oneDNN's blocks, if it takes the type: memory of this process
  kInt8,    // quantised per output channel; 8-bit products
  // On an accelerator:
  kResident,  // in device memory
  kStreamed   // in host memory, copied to the device block by block (block_streamer.h)
=======
constexpr int32_t kByteOffset = 128;   // of the bytes
constexpr float kByteLevels = 127.0f;  // largest |q|

// Token rows as a layer takes them: of the model's type or, for kInt8, bytes 128 + q that stand for
// q * row_scale.
struct LayerInput {
  at::Tensor values;     // [rows, in]
  at::Tensor row_scale;  // [rows] float32, or undefined

  LayerInput rows(int64_t begin, int64_t count) const;
};

// A layer's output, of the model's type. Integer products still want their row's scale and the
// bias, which the kernel that reads them applies (rescale()).
struct LayerOutput {
  at::Tensor values;     // [rows, out]
  at::Tensor row_scale;  // [rows] float32, or undefined
  at::Tensor bias;       // [out] float32, if row_scale is defined

  LayerOutput rows(int64_t begin, int64_t count) const;
  // For the columns from `column` on, of the rows from `row` on.
  kernels::Rescale rescale(int64_t row = 0, int64_t column = 0) const;
>>>>>>> ba83cad (Each part of a model states its tensors, architecture and memory once, without LibTorch; describeWeights and componentMemory)
};

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

  // For kStreamed: what the weights are read from, and where they are until further notice.
  const std::vector<std::string>& modules() const { return modules_; }
  void bind(Linear linear) { linear_ = std::move(linear); }

 private:
  const Linear& used();
  std::shared_ptr<const FluxWeightReader> reader_;
  std::vector<std::string> modules_;
  WeightForm form_ = WeightForm::kMapped;
  Linear linear_;                 // undefined until prepared
  at::Tensor weight_scale_;       // [out] float32, for kInt8
  at::Tensor weight_zero_point_;  // [out] int32, zeros
};

}  // namespace jitflux
