// Each file of this folder adds its functions to the exports; src/engine/binding.ts is their type.
#pragma once

#include "node/napi_setup.h"

namespace jitflux::addon {

void register_tensor(Napi::Env env, Napi::Object exports);
void register_devices(Napi::Env env, Napi::Object exports);
void register_jit(Napi::Env env, Napi::Object exports);
void register_latents(Napi::Env env, Napi::Object exports);
void register_transformer(Napi::Env env, Napi::Object exports);
void register_encoders(Napi::Env env, Napi::Object exports);
void register_script_module(Napi::Env env, Napi::Object exports);

}  // namespace jitflux::addon
