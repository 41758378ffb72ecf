// What is in a weight file, without loading a model.
#include "addon/arguments.h"
#include "addon/environment.h"
#include "addon/errors.h"
#include "addon/flux_config.h"
#include "addon/registration.h"
#include "weights/flux_parameters.h"

namespace jitflux::addon {

namespace {

// (path, verify, job) -> WeightInspection of src/native/binding.ts
Napi::Value inspect(const Napi::CallbackInfo& info) {
  const std::string path = parse_string(info[0], "path");
  const OpenOptions options{info[1].ToBoolean()};
  return Environment::of(info.Env()).run(info.Env(), info[2], [path, options](const Job&) {
    const auto file = WeightFile::open(path, options);
    std::shared_ptr<const FluxParameters> parameters;
    std::optional<Error> problem;
    try {
      parameters = std::make_shared<const FluxParameters>(FluxParameters::resolve(file));
    } catch (const Error& error) {
      problem = error;
    }
    return Environment::Settle([file, parameters, problem](Napi::Env env) -> napi_value {
      Napi::Object result = Napi::Object::New(env);
      result.Set("format", file->format());
      result.Set("totalBytes", Napi::Number::New(env, static_cast<double>(file->total_bytes())));
      if (parameters) {
        result.Set("layout", parameters->layout());
        result.Set("prefix", parameters->prefix());
        result.Set("config", flux_config_to_js(env, parameters->config()));
      }
      if (problem) result.Set("problem", to_js(env, *problem).Value());
      Napi::Array tensors = Napi::Array::New(env, file->tensors().size());
      uint32_t next = 0;
      for (const WeightTensor& tensor : file->tensors()) {
        Napi::Object entry = Napi::Object::New(env);
        entry.Set("name", tensor.name);
        entry.Set("dtype", jitflux::dtype_name(tensor.dtype));
        Napi::Array shape = Napi::Array::New(env, tensor.shape.size());
        for (size_t i = 0; i < tensor.shape.size(); ++i) {
          shape.Set(static_cast<uint32_t>(i),
                    Napi::Number::New(env, static_cast<double>(tensor.shape[i])));
        }
        entry.Set("shape", shape);
        entry.Set("bytes", Napi::Number::New(env, static_cast<double>(tensor.nbytes())));
        tensors.Set(next++, entry);
      }
      result.Set("tensors", tensors);
      return result;
    });
  });
}

}  // namespace

void register_weights(Napi::Env env, Napi::Object exports) {
  exports.Set("inspectWeights", Napi::Function::New<guarded<inspect>>(env));
}

}  // namespace jitflux::addon
