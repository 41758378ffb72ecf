// Entry point of libjit_flux_core.so, called by the loader (native/loader) once per Node
// environment.
#include <ATen/Version.h>

#include <string>

#include "addon/environment.h"
#include "addon/errors.h"
#include "addon/registration.h"
#include "base/counters.h"
#include "base/memory_use.h"
#include "kernels/kernels.h"
#include "node/control.h"
#include "runtime/memory_arena.h"
#include "runtime/torch_log.h"

namespace {

using jitflux::addon::Environment;

Napi::Value engine_info(const Napi::CallbackInfo& info) {
  Napi::Object result = Napi::Object::New(info.Env());
  result.Set("version", JIT_FLUX_VERSION);
  result.Set("libtorch", JIT_FLUX_LIBTORCH_VERSION);
  result.Set("isa", jitflux::kernels::table().isa);
  Napi::Array isas = Napi::Array::New(info.Env());
  for (const std::string& name : jitflux::kernels::supported_isas()) {
    isas.Set(isas.Length(), Napi::String::New(info.Env(), name));
  }
  result.Set("supportedIsas", isas);
  Napi::Object calls = Napi::Object::New(info.Env());
  for (size_t i = 0; i < jitflux::counters.size(); ++i) {
    const uint64_t count = jitflux::counters[i].load(std::memory_order_relaxed);
    calls.Set(jitflux::kCounterNames[i], Napi::Number::New(info.Env(), static_cast<double>(count)));
  }
  result.Set("kernelCalls", calls);
  result.Set("cpuCapability", at::get_cpu_capability());
  result.Set("threads",
             Napi::Number::New(info.Env(), Environment::of(info.Env()).default_threads()));
  return result;
}

// () -> NativeMemoryUse of src/engine/binding.ts
Napi::Value memory_use(const Napi::CallbackInfo& info) {
  Napi::Object result = Napi::Object::New(info.Env());
  const auto number = [&](const char* key, uint64_t bytes) {
    result.Set(key, Napi::Number::New(info.Env(), static_cast<double>(bytes)));
  };
  number("tensorBytes", jitflux::tensor_memory.bytes());
  number("peakTensorBytes", jitflux::tensor_memory.peak());
  number("idleBytes", jitflux::idle_memory.bytes());
  number("mappedBytes", jitflux::mapped_memory.bytes());
  return result;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) napi_value jit_flux_init(napi_env raw_env,
                                                                           napi_value raw_exports) {
  using namespace jitflux::addon;
  const Napi::Env env(raw_env);
  const Napi::Object exports(raw_env, raw_exports);
  const bool done = set_up_exports(env, [&] {
    translate_torch_exceptions();
    jitflux::redirect_torch_warnings();
    jitflux::kernels::table();  // refuses an instruction set that this CPU lacks
    jitflux::MemoryArena::install();
    Environment::create(env);
    exports.Set("info", Napi::Function::New<guarded<engine_info>>(env));
    exports.Set("memoryUse", Napi::Function::New<guarded<memory_use>>(env));
    register_control(env, exports);
    register_tensor(env, exports);
    register_devices(env, exports);
    register_jit(env, exports);
    register_latents(env, exports);
    register_transformer(env, exports);
    register_encoders(env, exports);
    register_script_module(env, exports);
  });
  return done ? raw_exports : nullptr;
}
