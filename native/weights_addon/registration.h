// Each file of this folder adds its functions to the exports of libjit_flux_weights.so;
// WeightsBinding of src/engine/binding.ts is their type.
#pragma once

#include "node/napi_setup.h"

namespace jitflux::addon {

void register_memory(Napi::Env env, Napi::Object exports);
void register_weights(Napi::Env env, Napi::Object exports);

}  // namespace jitflux::addon
