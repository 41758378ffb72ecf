#include "node/architectures.h"

#include <vector>

#include "node/arguments.h"

namespace jitflux::addon {

namespace {

constexpr int64_t kMaxWidth = int64_t{1} << 24;  // as of tensors in files (parameter_set.cc)
constexpr int64_t kMaxBlocks = 512;

void set_number(Napi::Object& object, const char* key, double value) {
  object.Set(key, Napi::Number::New(object.Env(), value));
}

int64_t parse_size(const Napi::Object& object, const char* key, int64_t most = kMaxWidth) {
  return parse_integer(object.Get(key), key, 1, most);
}

FluxConfig parse_flux(const Napi::Object& object) {
  FluxConfig config;
  config.double_blocks = parse_integer(object.Get("doubleBlocks"), "doubleBlocks", 0, kMaxBlocks);
  config.single_blocks = parse_integer(object.Get("singleBlocks"), "singleBlocks", 0, kMaxBlocks);
  config.heads = parse_size(object, "heads", 4096);
  config.head_dim = parse_size(object, "headDim", 4096);
  config.in_channels = parse_size(object, "inChannels");
  config.out_channels = parse_size(object, "outChannels");
  config.text_dim = parse_size(object, "textDim");
  config.pooled_dim = parse_size(object, "pooledDim");
  config.mlp_ratio = parse_size(object, "mlpRatio", 64);
  config.guidance = object.Get("guidance").ToBoolean();
  return config;
}

ClipConfig parse_clip(const Napi::Object& object) {
  ClipConfig config;
  config.vocabulary = parse_size(object, "vocabulary");
  config.positions = parse_size(object, "maxTokens");
  config.width = parse_size(object, "width");
  config.mlp = parse_size(object, "mlpWidth");
  config.layers = parse_size(object, "layers", kMaxBlocks);
  return config;
}

T5Config parse_t5(const Napi::Object& object) {
  T5Config config;
  config.vocabulary = parse_size(object, "vocabulary");
  config.width = parse_size(object, "width");
  config.heads = parse_size(object, "heads", 4096);
  config.head_dim = parse_size(object, "headDim", 4096);
  config.mlp = parse_size(object, "mlpWidth");
  config.layers = parse_size(object, "layers", kMaxBlocks);
  config.buckets = parse_size(object, "positionBuckets", 4096);
  return config;
}

AutoencoderConfig parse_autoencoder(const Napi::Object& object) {
  AutoencoderConfig config;
  config.latent_channels = parse_size(object, "latentChannels");
  config.layers_per_block = parse_size(object, "layersPerBlock", kMaxBlocks);
  config.channels = parse_shape(object.Get("channels"), "channels");
  for (const int64_t channels : config.channels) {
    if (channels > kMaxWidth) invalid("channels", "at most 2^24", std::to_string(channels));
  }
  config.encoder = object.Get("encoder").ToBoolean();
  config.names = "diffusers";
  return config;
}

}  // namespace

Napi::Object config_to_js(Napi::Env env, const FluxConfig& config) {
  Napi::Object result = Napi::Object::New(env);
  const auto set = [&](const char* key, int64_t value) {
    result.Set(key, Napi::Number::New(env, static_cast<double>(value)));
  };
  set("doubleBlocks", config.double_blocks);
  set("singleBlocks", config.single_blocks);
  set("heads", config.heads);
  set("headDim", config.head_dim);
  set("hiddenSize", config.hidden());
  set("inChannels", config.in_channels);
  set("outChannels", config.out_channels);
  set("textDim", config.text_dim);
  set("pooledDim", config.pooled_dim);
  set("mlpRatio", config.mlp_ratio);
  result.Set("guidance", Napi::Boolean::New(env, config.guidance));
  Napi::Array axes = Napi::Array::New(env, 3);
  for (uint32_t i = 0; i < 3; ++i) {
    axes.Set(i, Napi::Number::New(env, static_cast<double>(config.rope_axes[i])));
  }
  result.Set("ropeAxes", axes);
  return result;
}

Napi::Object config_to_js(Napi::Env env, const ClipConfig& config) {
  Napi::Object result = Napi::Object::New(env);
  set_number(result, "vocabulary", static_cast<double>(config.vocabulary));
  set_number(result, "maxTokens", static_cast<double>(config.positions));
  set_number(result, "width", static_cast<double>(config.width));
  set_number(result, "mlpWidth", static_cast<double>(config.mlp));
  set_number(result, "layers", static_cast<double>(config.layers));
  set_number(result, "heads", static_cast<double>(config.heads));
  set_number(result, "eosTokenId", static_cast<double>(config.end_of_text));
  return result;
}

Napi::Object config_to_js(Napi::Env env, const T5Config& config) {
  Napi::Object result = Napi::Object::New(env);
  set_number(result, "vocabulary", static_cast<double>(config.vocabulary));
  set_number(result, "maxTokens", static_cast<double>(config.max_tokens));
  set_number(result, "width", static_cast<double>(config.width));
  set_number(result, "mlpWidth", static_cast<double>(config.mlp));
  set_number(result, "layers", static_cast<double>(config.layers));
  set_number(result, "heads", static_cast<double>(config.heads));
  set_number(result, "headDim", static_cast<double>(config.head_dim));
  set_number(result, "positionBuckets", static_cast<double>(config.buckets));
  set_number(result, "maxDistance", static_cast<double>(config.max_distance));
  return result;
}

Napi::Object config_to_js(Napi::Env env, const AutoencoderConfig& config) {
  Napi::Object result = Napi::Object::New(env);
  set_number(result, "latentChannels", static_cast<double>(config.latent_channels));
  set_number(result, "spatialFactor", static_cast<double>(config.spatial_factor()));
  set_number(result, "layersPerBlock", static_cast<double>(config.layers_per_block));
  set_number(result, "normGroups", static_cast<double>(config.norm_groups));
  Napi::Array channels = Napi::Array::New(env, config.channels.size());
  for (size_t i = 0; i < config.channels.size(); ++i) {
    channels.Set(static_cast<uint32_t>(i),
                 Napi::Number::New(env, static_cast<double>(config.channels[i])));
  }
  result.Set("channels", channels);
  result.Set("encoder", Napi::Boolean::New(env, config.encoder));
  result.Set("names", config.names);
  return result;
}

Napi::Object architecture_to_js(Napi::Env env, const Architecture& architecture) {
  Napi::Object object = std::visit(
      [&](const auto& config) {
        if constexpr (std::is_same_v<std::decay_t<decltype(config)>, std::monostate>) {
          return Napi::Object::New(env);
        } else {
          return config_to_js(env, config);
        }
      },
      architecture);
  const auto drop = [&](const char* key) { object.Delete(key); };
  if (std::holds_alternative<ClipConfig>(architecture)) {
    drop("heads");
    drop("eosTokenId");
  } else if (std::holds_alternative<T5Config>(architecture)) {
    drop("maxTokens");
    drop("maxDistance");
  } else if (std::holds_alternative<AutoencoderConfig>(architecture)) {
    drop("normGroups");
  } else if (const auto* flux = std::get_if<FluxConfig>(&architecture)) {
    if (flux->rope_axes[0] == 0) drop("ropeAxes");
  }
  return object;
}

Architecture parse_architecture(const std::string& part, const Napi::Value& value) {
  if (!value.IsObject()) invalid("architecture", "an object", show(value));
  const auto object = value.As<Napi::Object>();
  if (part == "transformer") return parse_flux(object);
  if (part == "clip") return parse_clip(object);
  if (part == "t5") return parse_t5(object);
  if (part == "autoencoder") return parse_autoencoder(object);
  invalid("part", "'transformer', 'clip', 't5' or 'autoencoder'", part);
}

}  // namespace jitflux::addon
