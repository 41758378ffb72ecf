// Architectures of models as JavaScript objects; src/types.ts has their types.
#pragma once

#include <string>

#include "describe/parts.h"
#include "node/napi_setup.h"

namespace jitflux::addon {

Napi::Object config_to_js(Napi::Env env, const FluxConfig& config);
Napi::Object config_to_js(Napi::Env env, const ClipConfig& config);
Napi::Object config_to_js(Napi::Env env, const T5Config& config);
Napi::Object config_to_js(Napi::Env env, const AutoencoderConfig& config);

// Without what the tensors do not tell (settings of a config.json).
Napi::Object architecture_to_js(Napi::Env env, const Architecture& architecture);

// The architecture of a part ("transformer", "clip", "t5", "autoencoder"). Throws kInvalidArgument.
Architecture parse_architecture(const std::string& part, const Napi::Value& value);

}  // namespace jitflux::addon
