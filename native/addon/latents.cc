// Layout of latents around the VAE: packed tokens and pictures.
#include <ATen/ops/clamp.h>
#include <ATen/ops/round.h>

#include <cstring>

#include "addon/arguments.h"
#include "addon/environment.h"
#include "addon/errors.h"
#include "addon/registration.h"

namespace jitflux::addon {

namespace {

// (tokens [B, rows*cols, 4C], rows, cols, scale, shift, job) -> [B, C, 2 rows, 2 cols] = unpacked /
// scale + shift. Token channel = c*4 + dy*2 + dx.
Napi::Value unpack(const Napi::CallbackInfo& info) {
  const at::Tensor tokens = parse_tokens(info[0], "tokens");
  const jit::Grid grid = parse_grid(info[1], info[2]);
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

}  // namespace

void register_latents(Napi::Env env, Napi::Object exports) {
  exports.Set("unpack", Napi::Function::New<guarded<unpack>>(env));
  exports.Set("pack", Napi::Function::New<guarded<pack>>(env));
  exports.Set("toImage", Napi::Function::New<guarded<to_image>>(env));
}

}  // namespace jitflux::addon
