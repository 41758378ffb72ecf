// TorchScript modules whose code runs. src/engine/script-module.ts decides whether it may.
#include "runtime/script_module.h"

#include "addon/arguments.h"
#include "addon/environment.h"
#include "addon/errors.h"
#include "addon/registration.h"

namespace jitflux::addon {

namespace {

// (bytes: Uint8Array, name, job)
Napi::Value load(const Napi::CallbackInfo& info) {
  if (!info[0].IsTypedArray() ||
      info[0].As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array) {
    invalid("bytes", "a Uint8Array", show(info[0]));
  }
  const auto array = info[0].As<Napi::Uint8Array>();
  // Copied, so that what was hashed by the caller is what runs.
  std::string bytes(reinterpret_cast<const char*>(array.Data()), array.ElementLength());
  const std::string name = parse_string(info[1], "name");
  return Environment::of(info.Env())
      .run(info.Env(), info[2], [bytes = std::move(bytes), name](const Job&) {
        auto module = ScriptModule::load(bytes, name);
        return Environment::Settle([module = std::move(module)](Napi::Env env) -> napi_value {
          return make_handle(env, module);
        });
      });
}

// (module, inputs: tensor[], job) -> tensor[]
Napi::Value run(const Napi::CallbackInfo& info) {
  const auto module = get_handle<ScriptModule>(info[0]);
  if (!info[1].IsArray()) invalid("inputs", "an array of tensors", show(info[1]));
  const auto array = info[1].As<Napi::Array>();
  std::vector<at::Tensor> inputs;
  for (uint32_t i = 0; i < array.Length(); ++i) {
    inputs.push_back(*get_handle<at::Tensor>(array.Get(i), "inputs"));
    if (!inputs.back().device().is_cpu()) {
      throw Error(error_code::kInvalidTensor,
                  "TorchScript modules run on the CPU: expected inputs "
                  "there but received one on " +
                      inputs.back().device().str());
    }
  }
  return Environment::of(info.Env())
      .run(info.Env(), info[2], [module, inputs = std::move(inputs)](const Job&) {
        std::vector<at::Tensor> outputs = module->run(inputs);
        return Environment::Settle([outputs = std::move(outputs)](Napi::Env env) -> napi_value {
          Napi::Array result = Napi::Array::New(env, outputs.size());
          for (size_t i = 0; i < outputs.size(); ++i) {
            result.Set(static_cast<uint32_t>(i), tensor_handle(env, outputs[i]));
          }
          return result;
        });
      });
}

}  // namespace

void register_script_module(Napi::Env env, Napi::Object exports) {
  exports.Set("loadScriptModule", Napi::Function::New<guarded<load>>(env));
  exports.Set("runScriptModule", Napi::Function::New<guarded<run>>(env));
}

}  // namespace jitflux::addon
