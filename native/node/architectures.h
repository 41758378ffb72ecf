// Architectures of models as JavaScript objects; src/types.ts is their type.
#pragma once

#include "node/napi_setup.h"
#include "weights/flux_config.h"

namespace jitflux::addon {

Napi::Object flux_config_to_js(Napi::Env env, const FluxConfig& config);

}  // namespace jitflux::addon
