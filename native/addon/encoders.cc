// JavaScript's way to the text encoders and the autoencoder.
#include <utility>

#include "addon/arguments.h"
#include "addon/environment.h"
#include "addon/errors.h"
#include "addon/registration.h"
#include "node/architectures.h"

namespace jitflux::addon {

namespace {

// What all models take: (path, { device, dtype, threads, verify, mapWeights, ... }, job) -> {
// handle, config }.
template <typename Model, typename Options>
Napi::Value load_model(const Napi::CallbackInfo& info, Options options) {
  const std::string path = parse_string(info[0], "path");
  const TensorFields common(info[1]);
  const Placement where = common.placement();
  options.dtype = common.compute_dtype(where.device);
  const bool verify = common.boolean("verify");
  const bool map = common.boolean("mapWeights");
  return Environment::of(info.Env())
      .run(
          info.Env(), info[2],
          [path, verify, map, options, where](const Job& job) {
            auto file = WeightFile::open(path, {.verify = verify, .map = map, .job = job});
            auto entry = std::make_shared<ModelEntry<Model>>(
                ModelEntry<Model>{Model::load(std::move(file), options, job), where});
            return Environment::Settle([entry](Napi::Env env) -> napi_value {
              Napi::Object result = Napi::Object::New(env);
              result.Set("handle", make_handle(env, entry));
              result.Set("config", config_to_js(env, entry->model->config()));
              return result;
            });
          },
          where);
}

// options: heads (0: of 64), eps, eosTokenId.
Napi::Value load_clip(const Napi::CallbackInfo& info) {
  const Fields from(info[1]);
  ClipOptions options;
  options.heads = from.integer("heads", 0, 1024);
  options.eps = from.number("eps");
  options.end_of_text = from.integer("eosTokenId", 0, INT32_MAX);
  return load_model<ClipTextEncoder>(info, options);
}

// (encoder, ids, job) -> { pooled, hidden }
Napi::Value encode_clip(const Napi::CallbackInfo& info) {
  const auto entry = get_handle<ModelEntry<ClipTextEncoder>>(info[0]);
  const ClipConfig& config = entry->model->config();
  const at::Tensor ids = parse_token_ids(info[1], "ids", config.vocabulary, config.positions);
  return Environment::of(info.Env())
      .run(
          info.Env(), info[2],
          [entry, ids](const Job& job) {
            auto encoded = entry->model->encode(ids, job);
            return Environment::Settle([encoded = std::move(encoded)](Napi::Env env) -> napi_value {
              Napi::Object result = Napi::Object::New(env);
              result.Set("pooled", tensor_handle(env, encoded.pooled));
              result.Set("hidden", tensor_handle(env, encoded.hidden));
              return result;
            });
          },
          entry->where);
}

// options: maxDistance, eps, int8.
Napi::Value load_t5(const Napi::CallbackInfo& info) {
  const Fields from(info[1]);
  T5Options options;
  options.max_distance = from.integer("maxDistance", 1, INT32_MAX);
  options.eps = from.number("eps");
  options.int8 = from.boolean("int8");
  return load_model<T5Encoder>(info, options);
}

// (encoder, ids, job) -> [B, T, width]
Napi::Value encode_t5(const Napi::CallbackInfo& info) {
  const auto entry = get_handle<ModelEntry<T5Encoder>>(info[0]);
  const T5Config& config = entry->model->config();
  const at::Tensor ids = parse_token_ids(info[1], "ids", config.vocabulary, config.max_tokens);
  return Environment::of(info.Env())
      .run(
          info.Env(), info[2],
          [entry, ids](const Job& job) { return settle_tensor(entry->model->encode(ids, job)); },
          entry->where);
}

// options: normGroups, eps.
Napi::Value load_autoencoder(const Napi::CallbackInfo& info) {
  const Fields from(info[1]);
  AutoencoderOptions options;
  options.norm_groups = from.integer("normGroups", 1, 1024);
  options.eps = from.number("eps");
  return load_model<Autoencoder>(info, options);
}

at::Tensor parse_maps(const Napi::Value& value, const char* name, int64_t channels) {
  constexpr int64_t kMaxSide = 1 << 16;
  const at::Tensor tensor = *get_handle<at::Tensor>(value, name);
  if (tensor.dim() != 4 || tensor.size(1) != channels || !tensor.is_floating_point() ||
      tensor.size(2) > kMaxSide || tensor.size(3) > kMaxSide) {
    throw Error(error_code::kInvalidTensor, "Expected a floating point tensor of shape [images, " +
                                                std::to_string(channels) +
                                                ", height, width] for \"" + name +
                                                "\" but received " + describe_tensor(tensor));
  }
  return tensor;
}

// { mode: "never" | "auto" | "always" | "fixed", memoryBudgetBytes, tileSize and overlap for
// "fixed" }
Tiling parse_tiling(const Napi::Value& value) {
  const Fields from(value, "tiling");
  Tiling tiling;
  tiling.mode = from.choice<Tiling::Mode>("mode", {{"never", Tiling::kNever},
                                                   {"auto", Tiling::kAuto},
                                                   {"always", Tiling::kAlways},
                                                   {"fixed", Tiling::kFixed}});
  if (tiling.mode == Tiling::kFixed) {
    tiling.tile = from.integer("tileSize", 2, 1 << 16);
    tiling.overlap = from.integer("overlap", 0, tiling.tile - 1);
  }
  tiling.budget_bytes = from.integer("memoryBudgetBytes", 0, int64_t{1} << 52);
  return tiling;
}

// (autoencoder, latents, tiling, job) -> [B, 3, H, W]
Napi::Value decode(const Napi::CallbackInfo& info) {
  const auto entry = get_handle<ModelEntry<Autoencoder>>(info[0]);
  const at::Tensor latents = parse_maps(info[1], "latents", entry->model->config().latent_channels);
  expect_device(latents, "latents", entry->where.device);
  const Tiling tiling = parse_tiling(info[2]);
  return Environment::of(info.Env())
      .run(
          info.Env(), info[3],
          [entry, latents, tiling](const Job& job) {
            return settle_tensor(entry->model->decode(latents, tiling, job));
          },
          entry->where);
}

// (autoencoder, pictures, job) -> { mean, logvar }
Napi::Value encode_pictures(const Napi::CallbackInfo& info) {
  const auto entry = get_handle<ModelEntry<Autoencoder>>(info[0]);
  const AutoencoderConfig& config = entry->model->config();
  if (!config.encoder) {
    throw Error(error_code::kInvalidArgument,
                "This autoencoder was loaded from a file that holds the decoder only");
  }
  const at::Tensor pictures = parse_maps(info[1], "pictures", config.picture_channels);
  expect_device(pictures, "pictures", entry->where.device);
  const int64_t factor = config.spatial_factor();
  if (pictures.size(2) % factor != 0 || pictures.size(3) % factor != 0) {
    throw Error(error_code::kInvalidTensor,
                "Expected sides divisible by " + std::to_string(factor) +
                    " for \"pictures\" but received " + describe_tensor(pictures));
  }
  return Environment::of(info.Env())
      .run(
          info.Env(), info[2],
          [entry, pictures](const Job& job) {
            auto moments = entry->model->encode(pictures, job);
            return Environment::Settle([moments = std::move(moments)](Napi::Env env) -> napi_value {
              Napi::Object result = Napi::Object::New(env);
              result.Set("mean", tensor_handle(env, moments.mean));
              result.Set("logvar", tensor_handle(env, moments.logvar));
              return result;
            });
          },
          entry->where);
}

// (autoencoder, h, w) -> bytes
Napi::Value decode_bytes(const Napi::CallbackInfo& info) {
  const auto entry = get_handle<ModelEntry<Autoencoder>>(info[0]);
  const int64_t h = parse_integer(info[1], "height", 1, 1 << 16);
  const int64_t w = parse_integer(info[2], "width", 1, 1 << 16);
  return Napi::Number::New(info.Env(), static_cast<double>(entry->model->decode_bytes(h, w)));
}

}  // namespace

void register_encoders(Napi::Env env, Napi::Object exports) {
  exports.Set("loadClipTextEncoder", Napi::Function::New<guarded<load_clip>>(env));
  exports.Set("encodeClip", Napi::Function::New<guarded<encode_clip>>(env));
  exports.Set("loadT5Encoder", Napi::Function::New<guarded<load_t5>>(env));
  exports.Set("encodeT5", Napi::Function::New<guarded<encode_t5>>(env));
  exports.Set("loadAutoencoder", Napi::Function::New<guarded<load_autoencoder>>(env));
  exports.Set("decodeLatents", Napi::Function::New<guarded<decode>>(env));
  exports.Set("encodePictures", Napi::Function::New<guarded<encode_pictures>>(env));
  exports.Set("decodeBytes", Napi::Function::New<guarded<decode_bytes>>(env));
}

}  // namespace jitflux::addon
