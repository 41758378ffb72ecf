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

at::ScalarType parse_dtype(const Napi::Value& value);
const char* dtype_name(at::ScalarType dtype);

// The type that a model computes in: float32 or bfloat16, on accelerators also float16.
at::ScalarType parse_compute_dtype(const Napi::Value& value, int device);

// Index of an accelerator, or -1 for the CPU. Throws kDeviceUnavailable.
int parse_device(const Napi::Value& value);

// Where a model is loaded: `device` and `threads` of its options.
Placement parse_placement(const Napi::Object& options);

// Throws kInvalidTensor unless the tensor is on this device.
void expect_device(const at::Tensor& tensor, const char* name, int device);

// The device that all of these are on. Throws kInvalidTensor.
int common_device(std::initializer_list<at::Tensor> tensors);

Grid parse_grid(const Napi::Value& rows, const Napi::Value& cols);

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

// An Int32Array of tokens: `count` of them for all images, or images * count. Checked against a
// grid of `tokens` tokens. count < 0: the whole list is shared.
TokenLists parse_token_lists(const Napi::Value& value, const char* name, int64_t images,
                             int64_t count, int64_t tokens);
// Of lists whose length alone does not tell shared from per image, for latents [B, N, C].
TokenLists parse_flagged_lists(const Napi::Value& value, const char* name,
                               const at::Tensor& latents, bool per_image);

}  // namespace jitflux::addon
