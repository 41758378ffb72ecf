// Entry point of libjit_flux_weights.so, which reads, describes and converts weight files without
// LibTorch; called by the loader (native/loader) once per Node environment.
#include "node/control.h"
#include "node/environment.h"
#include "node/errors.h"
#include "weights_addon/registration.h"

namespace jitflux::addon {

namespace {

class WeightsEnvironment final : public NodeEnvironment {
 public:
  explicit WeightsEnvironment(Napi::Env env) : NodeEnvironment(env) {}
  ~WeightsEnvironment() override { stop(); }
};

// () -> { version }
Napi::Value info(const Napi::CallbackInfo& call) {
  Napi::Object result = Napi::Object::New(call.Env());
  result.Set("version", JIT_FLUX_VERSION);
  return result;
}

}  // namespace

}  // namespace jitflux::addon

extern "C" __attribute__((visibility("default"))) napi_value jit_flux_init(napi_env raw_env,
                                                                           napi_value raw_exports) {
  using namespace jitflux::addon;
  const Napi::Env env(raw_env);
  const Napi::Object exports(raw_env, raw_exports);
  const bool done = set_up_exports(env, [&] {
    NodeEnvironment::adopt(std::make_unique<WeightsEnvironment>(env));
    exports.Set("info", Napi::Function::New<guarded<info>>(env));
    register_control(env, exports);
    register_memory(env, exports);
    register_weights(env, exports);
  });
  return done ? raw_exports : nullptr;
}
