#include "node/architectures.h"

#include <vector>

#include "node/arguments.h"

namespace jitflux::addon {

namespace {

void set_number(Napi::Object& object, const char* key, double value) {
  object.Set(key, Napi::Number::New(object.Env(), value));
}

int64_t parse_size(const Fields& from, const char* name, int64_t most = kMaxWidth) {
  return from.integer(name, 1, most);
}

FluxConfig parse_flux(const Fields& from) {
  FluxConfig config;
  config.double_blocks = from.integer("doubleBlocks", 0, kMaxBlocks);
  config.single_blocks = from.integer("singleBlocks", 0, kMaxBlocks);
  config.heads = parse_size(from, "heads", 4096);
  config.head_dim = parse_size(from, "headDim", 4096);
  config.in_channels = parse_size(from, "inChannels");
  config.out_channels = parse_size(from, "outChannels");
  config.text_dim = parse_size(from, "textDim");
  config.pooled_dim = parse_size(from, "pooledDim");
  config.mlp_ratio = parse_size(from, "mlpRatio", 64);
  config.guidance = from.boolean("guidance");
  return config;
}

ClipConfig parse_clip(const Fields& from) {
  ClipConfig config;
  config.vocabulary = parse_size(from, "vocabulary");
  config.positions = parse_size(from, "maxTokens");
  config.width = parse_size(from, "width");
  config.mlp = parse_size(from, "mlpWidth");
  config.layers = parse_size(from, "layers", kMaxBlocks);
  return config;
}

T5Config parse_t5(const Fields& from) {
  T5Config config;
  config.vocabulary = parse_size(from, "vocabulary");
  config.width = parse_size(from, "width");
  config.heads = parse_size(from, "heads", 4096);
  config.head_dim = parse_size(from, "headDim", 4096);
  config.mlp = parse_size(from, "mlpWidth");
  config.layers = parse_size(from, "layers", kMaxBlocks);
  config.buckets = parse_size(from, "positionBuckets", 4096);
  return config;
}

// No shape: the widths of the levels stand side by side.
std::vector<int64_t> parse_channels(const Napi::Value& value) {
  if (!value.IsArray()) invalid("channels", "an array of widths", show(value));
  const auto array = value.As<Napi::Array>();
  const uint32_t levels = array.Length();
  if (levels < 1 || levels > kMaxAutoencoderLevels) {
    invalid("channels", "1 to " + std::to_string(kMaxAutoencoderLevels) + " widths",
            std::to_string(levels));
  }
  std::vector<int64_t> channels;
  for (uint32_t i = 0; i < levels; ++i) {
    channels.push_back(parse_integer(array.Get(i), "channels", 1, kMaxWidth));
  }
  return channels;
}

AutoencoderConfig parse_autoencoder(const Fields& from) {
  AutoencoderConfig config;
  config.latent_channels = parse_size(from, "latentChannels");
  config.layers_per_block = parse_size(from, "layersPerBlock", kMaxBlocks);
  config.channels = parse_channels(from.get("channels"));
  config.encoder = from.boolean("encoder");
  config.names = "diffusers";
  return config;
}

}  // namespace

Napi::Object config_to_js(Napi::Env env, const FluxConfig& config) {
  Napi::Object result = Napi::Object::New(env);
  set_number(result, "doubleBlocks", static_cast<double>(config.double_blocks));
  set_number(result, "singleBlocks", static_cast<double>(config.single_blocks));
  set_number(result, "heads", static_cast<double>(config.heads));
  set_number(result, "headDim", static_cast<double>(config.head_dim));
  set_number(result, "hiddenSize", static_cast<double>(config.hidden()));
  set_number(result, "inChannels", static_cast<double>(config.in_channels));
  set_number(result, "outChannels", static_cast<double>(config.out_channels));
  set_number(result, "textDim", static_cast<double>(config.text_dim));
  set_number(result, "pooledDim", static_cast<double>(config.pooled_dim));
  set_number(result, "mlpRatio", static_cast<double>(config.mlp_ratio));
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
  const Fields from(value, "architecture");
  if (part == "transformer") return parse_flux(from);
  if (part == "clip") return parse_clip(from);
  if (part == "t5") return parse_t5(from);
  if (part == "autoencoder") return parse_autoencoder(from);
  invalid("part", "'transformer', 'clip', 't5' or 'autoencoder'", part);
}

}  // namespace jitflux::addon
