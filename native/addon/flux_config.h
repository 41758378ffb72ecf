#pragma once

#include "addon/napi_setup.h"
#include "weights/flux_config.h"

namespace jitflux::addon {

// FluxConfig of src/types.ts.
Napi::Object flux_config_to_js(Napi::Env env, const FluxConfig& config);

}  // namespace jitflux::addon
