// Layout of latents around the VAE: packed tokens and pictures. Batches: images put together and
// taken apart.
#include <ATen/ops/cat.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/repeat_interleave.h>
#include <ATen/ops/round.h>

#include <cstring>
#include <utility>
#include <vector>

#include "addon/arguments.h"
#include "addon/environment.h"
#include "addon/errors.h"
#include "addon/registration.h"
#include "runtime/device.h"

namespace jitflux::addon {

namespace {

// (tokens [B, rows*cols, 4C], rows, cols, scale, shift, job) -> [B, C, 2 rows, 2 cols] = unpacked /
// scale + shift. Token channel = c*4 + dy*2 + dx.
Napi::Value unpack(const Napi::CallbackInfo& info) {
  const at::Tensor tokens = parse_tokens(info[0], "tokens");
  const Grid grid = parse_grid(info[1], info[2]);
  expect_tokens(tokens, "tokens", tokens.size(0), grid.tokens(), tokens.size(2) / 4 * 4);
  const double scale = parse_number(info[3], "scale");
  const double shift = parse_number(info[4], "shift");
  return Environment::of(info.Env())
      .run(info.Env(), info[5],
           [tokens, grid, scale, shift](const Job&) {
             const int64_t images = tokens.size(0);
             const int64_t channels = tokens.size(2) / 4;
             return settle_tensor(tokens.view({images, grid.rows, grid.cols, channels, 2, 2})
                                      .permute({0, 3, 1, 4, 2, 5})
                                      .reshape({images, channels, 2 * grid.rows, 2 * grid.cols})
                                      .div(scale)
                                      .add(shift));
           },
           {common_device({tokens})});
}

// (latents [B, C, 2 rows, 2 cols], job) -> [B, rows*cols, 4C]
Napi::Value pack(const Napi::CallbackInfo& info) {
  const at::Tensor latents = *get_handle<at::Tensor>(info[0]);
  if (latents.dim() != 4 || latents.size(2) % 2 != 0 || latents.size(3) % 2 != 0) {
    throw Error(error_code::kInvalidTensor,
                "Expected latents of shape [images, channels, even height, even width]");
  }
  return Environment::of(info.Env())
      .run(info.Env(), info[1],
           [latents](const Job&) {
             const int64_t images = latents.size(0);
             const int64_t channels = latents.size(1);
             const int64_t rows = latents.size(2) / 2;
             const int64_t cols = latents.size(3) / 2;
             return settle_tensor(latents.view({images, channels, rows, 2, cols, 2})
                                      .permute({0, 2, 4, 1, 3, 5})
                                      .reshape({images, rows * cols, channels * 4}));
           },
           {common_device({latents})});
}

// (pictures [B, 3, H, W] in [-1, 1], job) -> Uint8Array of B*H*W*3: round(clamp(x / 2 + 0.5) *
// 255), as diffusers' VaeImageProcessor.
Napi::Value to_image(const Napi::CallbackInfo& info) {
  const at::Tensor pictures = *get_handle<at::Tensor>(info[0]);
  if (pictures.dim() != 4 || pictures.size(1) != 3) {
    throw Error(error_code::kInvalidTensor,
                "Expected pictures of shape [images, 3, height, width]");
  }
  return Environment::of(info.Env())
      .run(info.Env(), info[1],
           [pictures](const Job&) {
             const at::Tensor bytes = pictures.to(at::kFloat)
                                          .div(2.0)
                                          .add(0.5)
                                          .clamp(0.0, 1.0)
                                          .mul(255.0)
                                          .round()
                                          .to(at::kByte)
                                          .permute({0, 2, 3, 1})
                                          .contiguous()
                                          .cpu();
             return Environment::Settle([bytes](Napi::Env env) -> napi_value {
               Napi::Uint8Array array = Napi::Uint8Array::New(env, bytes.nbytes());
               std::memcpy(array.Data(), bytes.const_data_ptr(), bytes.nbytes());
               return array;
             });
           },
           {common_device({pictures})});
}

// (tensors, repeats: Int32Array, job) -> one tensor with the images (first dimension) of all
// `tensors`, one after another, those of tensors[i] repeated repeats[i] times each.
Napi::Value stack_images(const Napi::CallbackInfo& info) {
  if (!info[0].IsArray() || !info[1].IsTypedArray() ||
      info[1].As<Napi::TypedArray>().TypedArrayType() != napi_int32_array) {
    throw Error(error_code::kInvalidArgument,
                "Expected an array of tensors and an Int32Array of repeats");
  }
  const auto list = info[0].As<Napi::Array>();
  const auto counts = info[1].As<Napi::Int32Array>();
  if (list.Length() == 0 || list.Length() != counts.ElementLength()) {
    throw Error(error_code::kInvalidArgument, "Expected one repeat per tensor, at least one");
  }
  std::vector<at::Tensor> tensors;
  std::vector<int64_t> repeats;
  for (uint32_t i = 0; i < list.Length(); ++i) {
    const at::Tensor tensor = *get_handle<at::Tensor>(list.Get(i));
    const at::Tensor& first = tensors.empty() ? tensor : tensors.front();
    if (tensor.dim() < 1 || tensor.dim() != first.dim() ||
        tensor.sizes().slice(1) != first.sizes().slice(1) || tensor.dtype() != first.dtype()) {
      throw Error(error_code::kInvalidTensor,
                  "Expected tensors that differ in the first dimension only but received " +
                      describe_tensor(first) + " and " + describe_tensor(tensor));
    }
    common_device({first, tensor});
    if (counts[i] < 1) {
      throw Error(
          error_code::kInvalidArgument,
          "Expected integers >= 1 for \"repeats\" but received " + std::to_string(counts[i]));
    }
    tensors.push_back(tensor);
    repeats.push_back(counts[i]);
  }
  const int device = device_index(tensors.front());
  return Environment::of(info.Env())
      .run(info.Env(), info[2],
           [tensors = std::move(tensors), repeats = std::move(repeats)](const Job&) {
             std::vector<at::Tensor> parts;
             for (size_t i = 0; i < tensors.size(); ++i) {
               parts.push_back(repeats[i] == 1 ? tensors[i]
                                               : at::repeat_interleave(tensors[i], repeats[i], 0));
             }
             return settle_tensor(at::cat(parts));
           },
           {device});
}

// (tensor, first, count) -> images [first, first + count) of it, in the same memory
Napi::Value images_of(const Napi::CallbackInfo& info) {
  const at::Tensor tensor = *get_handle<at::Tensor>(info[0]);
  if (tensor.dim() < 1) {
    throw Error(error_code::kInvalidTensor, "Expected a tensor of at least one dimension");
  }
  const int64_t first = parse_integer(info[1], "first", 0, tensor.size(0) - 1);
  const int64_t count = parse_integer(info[2], "count", 1, tensor.size(0) - first);
  // Of no memory of its own: the garbage collector counts the whole tensor already.
  return make_handle(info.Env(), std::make_shared<at::Tensor>(tensor.narrow(0, first, count)));
}

}  // namespace

void register_latents(Napi::Env env, Napi::Object exports) {
  exports.Set("unpack", Napi::Function::New<guarded<unpack>>(env));
  exports.Set("pack", Napi::Function::New<guarded<pack>>(env));
  exports.Set("toImage", Napi::Function::New<guarded<to_image>>(env));
  exports.Set("stackImages", Napi::Function::New<guarded<stack_images>>(env));
  exports.Set("imagesOf", Napi::Function::New<guarded<images_of>>(env));
}

}  // namespace jitflux::addon
