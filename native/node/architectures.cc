#include "node/architectures.h"

namespace jitflux::addon {

Napi::Object flux_config_to_js(Napi::Env env, const FluxConfig& config) {
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

}  // namespace jitflux::addon
