// JavaScript's way to the layout of latents and pictures: packed tokens, bytes, batches.
#include <cstring>
#include <utility>
#include <vector>

#include "addon/arguments.h"
#include "addon/environment.h"
#include "addon/errors.h"
#include "addon/registration.h"
#include "layers/finite.h"
#include "layers/latent_layout.h"
#include "runtime/device.h"

namespace jitflux::addon {

namespace {

// ({ tokens, grid, scale, shift }, job) -> [B, C, 2 rows, 2 cols]
Napi::Value unpack(const Napi::CallbackInfo& info) {
  const TensorFields o(info[0]);
  const at::Tensor tokens = o.tokens("tokens");
  const Grid grid = o.grid();
  expect_tokens(tokens, "tokens", tokens.size(0), grid.tokens(), tokens.size(2) / 4 * 4);
  const double scale = o.number("scale");
  const double shift = o.number("shift");
  return Environment::of(info.Env())
      .run(info.Env(), info[1],
           [tokens, grid, scale, shift](const Job&) {
             return settle_tensor(unpack_latents(tokens, grid, scale, shift));
           },
           {common_device({tokens})});
}

// (latents [B, C, 2 rows, 2 cols], job) -> [B, rows*cols, 4C]
Napi::Value pack(const Napi::CallbackInfo& info) {
  const at::Tensor latents = *get_handle<at::Tensor>(info[0], "latents");
  if (latents.dim() != 4 || latents.size(2) % 2 != 0 || latents.size(3) % 2 != 0) {
    throw Error(error_code::kInvalidTensor,
                "Expected latents of shape [images, channels, even height, even width]");
  }
  return Environment::of(info.Env())
      .run(info.Env(), info[1],
           [latents](const Job&) { return settle_tensor(pack_latents(latents)); },
           {common_device({latents})});
}

// (pictures [B, 3, H, W] in [-1, 1], job) -> Uint8Array of B*H*W*3
Napi::Value to_image(const Napi::CallbackInfo& info) {
  const at::Tensor pictures = *get_handle<at::Tensor>(info[0], "pictures");
  if (pictures.dim() != 4 || pictures.size(1) != 3) {
    throw Error(error_code::kInvalidTensor,
                "Expected pictures of shape [images, 3, height, width]");
  }
  return Environment::of(info.Env())
      .run(info.Env(), info[1],
           [pictures](const Job&) {
             expect_finite(pictures, "picture");
             const at::Tensor bytes = picture_bytes(pictures);
             return Environment::Settle([bytes](Napi::Env env) -> napi_value {
               Napi::Uint8Array array = Napi::Uint8Array::New(env, bytes.nbytes());
               std::memcpy(array.Data(), bytes.const_data_ptr(), bytes.nbytes());
               return array;
             });
           },
           {common_device({pictures})});
}

// ({ tensors, repeats: Int32Array }, job) -> the images of all `tensors`, see stack_images
Napi::Value stack(const Napi::CallbackInfo& info) {
  const TensorFields o(info[0]);
  std::vector<int32_t> repeats = o.integers("repeats");
  const Napi::Value value = o.get("tensors");
  if (!value.IsArray() || value.As<Napi::Array>().Length() == 0) {
    invalid("tensors", "an array of at least one tensor", show(value));
  }
  const auto list = value.As<Napi::Array>();
  const uint32_t count = list.Length();
  if (repeats.size() != count) {
    invalid("repeats", "one number per tensor (" + std::to_string(count) + ")",
            std::to_string(repeats.size()));
  }
  std::vector<at::Tensor> tensors;
  for (uint32_t i = 0; i < count; ++i) {
    const at::Tensor tensor = *get_handle<at::Tensor>(list.Get(i), "tensors");
    const at::Tensor& first = tensors.empty() ? tensor : tensors.front();
    if (tensor.dim() < 1 || tensor.dim() != first.dim() ||
        tensor.sizes().slice(1) != first.sizes().slice(1) || tensor.dtype() != first.dtype()) {
      throw Error(error_code::kInvalidTensor,
                  "Expected tensors that differ in the first dimension only but received " +
                      describe_tensor(first) + " and " + describe_tensor(tensor));
    }
    common_device({first, tensor});
    if (repeats[i] < 1) invalid("repeats", "integers >= 1", std::to_string(repeats[i]));
    tensors.push_back(tensor);
  }
  const int device = device_index(tensors.front());
  return Environment::of(info.Env())
      .run(info.Env(), info[1],
           [tensors = std::move(tensors), repeats = std::move(repeats)](const Job&) {
             return settle_tensor(stack_images(tensors, repeats));
           },
           {device});
}

// ({ tensor, first, count }) -> images [first, first + count) of it, in the same memory
Napi::Value images_of(const Napi::CallbackInfo& info) {
  const TensorFields o(info[0]);
  const at::Tensor tensor = o.tensor("tensor");
  if (tensor.dim() < 1) {
    throw Error(error_code::kInvalidTensor, "Expected a tensor of at least one dimension");
  }
  const int64_t first = o.integer("first", 0, tensor.size(0) - 1);
  const int64_t count = o.integer("count", 1, tensor.size(0) - first);
  // Of no memory of its own: the garbage collector counts the whole tensor already.
  return make_handle(info.Env(), std::make_shared<at::Tensor>(tensor.narrow(0, first, count)));
}

}  // namespace

void register_latents(Napi::Env env, Napi::Object exports) {
  exports.Set("unpack", Napi::Function::New<guarded<unpack>>(env));
  exports.Set("pack", Napi::Function::New<guarded<pack>>(env));
  exports.Set("toImage", Napi::Function::New<guarded<to_image>>(env));
  exports.Set("stackImages", Napi::Function::New<guarded<stack>>(env));
  exports.Set("imagesOf", Napi::Function::New<guarded<images_of>>(env));
}

}  // namespace jitflux::addon
