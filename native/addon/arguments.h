// Reading and checking tensors, devices and token lists on the JavaScript thread, before any work
// is queued.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "addon/handles.h"
#include "base/token_grid.h"
#include "node/arguments.h"

namespace jitflux::addon {

const char* dtype_name(at::ScalarType dtype);

// Throws kInvalidTensor unless the tensor is on this device.
void expect_device(const at::Tensor& tensor, const char* name, int device);

// The device that all of these are on. Throws kInvalidTensor.
int common_device(std::initializer_list<at::Tensor> tensors);

// Index of an accelerator, or -1 for the CPU. Throws kDeviceUnavailable.
int parse_device(const Napi::Value& value);
// Index of an accelerator. Throws kInvalidArgument for the CPU.
int parse_accelerator(const Napi::Value& value);

// Token ids: an int64 tensor [images, tokens] on the CPU with at most `max_tokens` tokens, every id
// in [0, vocabulary). Throws kInvalidTensor.
at::Tensor parse_token_ids(const Napi::Value& value, const char* name, int64_t vocabulary,
                           int64_t max_tokens);

// "float32 [1, 16, 64, 64]", for messages.
std::string describe_tensor(const at::Tensor& tensor);

// A live float32 tensor of three dimensions: [images, tokens, channels].
at::Tensor parse_tokens(const Napi::Value& value, const char* name);
void expect_tokens(const at::Tensor& tensor, const char* name, int64_t images, int64_t tokens,
                   int64_t channels);

// Fields of which some are tensors or belong to them.
class TensorFields : public Fields {
 public:
  using Fields::Fields;

  // A live tensor of any type and shape.
  at::Tensor tensor(const char* name) const { return *handle<at::Tensor>(name); }
  // A live float32 tensor of three dimensions: [images, tokens, channels].
  at::Tensor tokens(const char* name) const { return parse_tokens(get(name), name); }

  int device() const { return parse_device(get("device")); }
  // Where a model is loaded: `device` and `threads`.
  Placement placement() const;
  at::ScalarType dtype() const;
  // The type that a model computes in: float32 or bfloat16, on accelerators also float16.
  at::ScalarType compute_dtype(int device) const;

  // [rows, cols], each from 1 to kMaxGridSide.
  Grid grid() const;

  // An Int32Array of tokens: `count` of them for all images, or images * count. Checked against a
  // grid of `tokens` tokens. Throws kInvalidAnchors.
  TokenLists token_lists(const char* name, int64_t images, int64_t count, int64_t tokens) const;
  // Of lists whose length alone does not tell shared from per image, which the field `perImage`
  // says. For latents [B, N, C].
  TokenLists token_lists(const char* name, const at::Tensor& latents) const;
};

}  // namespace jitflux::addon
