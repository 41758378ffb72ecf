// Weight files without a model: what is in them, and writing them in another format.
#include "convert/convert.h"
#include "describe/flux_parameters.h"
#include "describe/parts.h"
#include "node/architectures.h"
#include "node/arguments.h"
#include "node/environment.h"
#include "node/errors.h"
#include "node/metadata.h"
#include "weights/fingerprint.h"
#include "weights/reader_util.h"
#include "weights/weight_folder.h"
#include "weights_addon/registration.h"

namespace jitflux::addon {

namespace {

// (path, { verify, metadata }, job) -> WeightInspection of src/engine/binding.ts
Napi::Value inspect(const Napi::CallbackInfo& info) {
  const std::string path = parse_string(info[0], "path");
  const Fields from(info[1]);
  const bool verify = from.boolean("verify");
  const bool metadata = from.boolean("metadata");
  const auto work = [path, verify, metadata](const Job& job) {
    const auto file = WeightFile::open(path, {.verify = verify, .metadata = metadata, .job = job});
    std::shared_ptr<const FluxParameters> parameters;
    std::optional<Error> problem;
    try {
      parameters = std::make_shared<const FluxParameters>(FluxParameters::resolve(file));
    } catch (const Error& error) {
      problem = error;
    }
    return NodeEnvironment::Settle([=](Napi::Env env) -> napi_value {
      Napi::Object result = Napi::Object::New(env);
      result.Set("format", file->format());
      result.Set("totalBytes", Napi::Number::New(env, static_cast<double>(file->total_bytes())));
      if (parameters) {
        result.Set("layout", parameters->layout());
        result.Set("prefix", parameters->prefix());
        result.Set("config", config_to_js(env, parameters->config()));
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
      if (metadata) result.Set("metadata", metadata_to_js(env, *file));
      return result;
    });
  };
  return NodeEnvironment::of(info.Env()).run(info.Env(), info[2], work);
}

// (path, job) -> WeightDescription of src/engine/binding.ts
Napi::Value describe(const Napi::CallbackInfo& info) {
  const std::string path = parse_string(info[0], "path");
  return NodeEnvironment::of(info.Env()).run(info.Env(), info[1], [path](const Job& job) {
    const auto file = WeightFile::open(path, {.job = job});
    const PartDescription found = describe_part(file, job);
    const std::string fingerprint = fingerprint_of(*file);
    return NodeEnvironment::Settle([path, file, found, fingerprint](Napi::Env env) -> napi_value {
      const auto number = [env](uint64_t value) {
        return Napi::Number::New(env, static_cast<double>(value));
      };
      Napi::Object result = Napi::Object::New(env);
      result.Set("path", path);
      Napi::Array files = Napi::Array::New(env);
      for (const std::string& name : file->files()) {
        files.Set(files.Length(), Napi::String::New(env, name));
      }
      result.Set("files", files);
      result.Set("format", file->format());
      result.Set("fileBytes", number(file->file_bytes()));
      if (!found.part.empty()) result.Set("part", found.part);
      if (!found.problem) {
        if (!found.layout.empty()) result.Set("layout", found.layout);
        result.Set("prefix", found.prefix);
        result.Set("architecture", architecture_to_js(env, found.architecture));
      }
      result.Set("parameters", number(found.parameters));
      Napi::Object types = Napi::Object::New(env);
      for (const auto& [dtype, elements] : file->elements_by_type()) {
        types.Set(jitflux::dtype_name(dtype), number(elements));
      }
      result.Set("storedTypes", types);
      result.Set("fingerprint", fingerprint);
      if (!found.extra.empty()) {
        constexpr size_t kMaxNames = 20;
        Napi::Object extra = Napi::Object::New(env);
        extra.Set("count", number(found.extra.size()));
        Napi::Array names = Napi::Array::New(env);
        for (size_t i = 0; i < std::min(found.extra.size(), kMaxNames); ++i) {
          names.Set(static_cast<uint32_t>(i), printable(found.extra[i]));
        }
        extra.Set("names", names);
        result.Set("extra", extra);
      }
      if (found.problem) result.Set("problem", to_js(env, *found.problem).Value());
      return result;
    });
  });
}

// (folder, variant, job) -> path of the file, or undefined; see find_folder_weights
Napi::Value find_weights(const Napi::CallbackInfo& info) {
  const std::string folder = parse_string(info[0], "folder");
  const std::string variant = parse_string(info[1], "variant");
  return NodeEnvironment::of(info.Env()).run(info.Env(), info[2], [folder, variant](const Job&) {
    const std::optional<std::string> found = find_folder_weights(folder, variant);
    return NodeEnvironment::Settle([found](Napi::Env env) -> napi_value {
      if (!found) return env.Undefined();
      return Napi::String::New(env, *found);
    });
  });
}

// (input, output, { format, dtype, resume, verify, completed, ropeAxes? }, job) -> WeightConversion
Napi::Value convert(const Napi::CallbackInfo& info) {
  const std::string input = parse_string(info[0], "input");
  const std::string output = parse_string(info[1], "output");
  const Fields from(info[2]);
  ConvertOptions options;
  options.format = from.choice<OutputFormat>(
      "format",
      {{"torchscript", OutputFormat::kTorchScript}, {"safetensors", OutputFormat::kSafetensors}});
  options.dtype =
      from.choice<std::optional<WeightDType>>("dtype", {{"keep", std::nullopt},
                                                        {"float32", WeightDType::kFloat32},
                                                        {"bfloat16", WeightDType::kBFloat16},
                                                        {"float16", WeightDType::kFloat16}});
  options.resume = from.boolean("resume");
  options.verify = from.boolean("verify");
  options.completed = from.string("completed");
  options.rope_axes = from.axes("ropeAxes");
  return NodeEnvironment::of(info.Env())
      .run(info.Env(), info[3], [input, output, options](const Job& job) {
        const ConvertResult converted = convert_weights(input, output, options, job);
        return NodeEnvironment::Settle([converted](Napi::Env env) -> napi_value {
          const auto number = [env](uint64_t value) {
            return Napi::Number::New(env, static_cast<double>(value));
          };
          Napi::Object result = Napi::Object::New(env);
          if (!converted.layout.empty()) result.Set("layout", converted.layout);
          result.Set("tensors", number(converted.tensors));
          result.Set("skippedTensors", number(converted.skipped_tensors));
          result.Set("fileBytes", number(converted.file_bytes));
          result.Set("resumedBytes", number(converted.resumed_bytes));
          result.Set("becameInfinite", number(converted.loss.infinite));
          result.Set("becameZero", number(converted.loss.zero));
          Napi::Array names = Napi::Array::New(env);
          for (uint32_t i = 0; i < converted.infinite_tensors.size(); ++i) {
            names.Set(i, converted.infinite_tensors[i]);
          }
          result.Set("infiniteTensors", names);
          result.Set("reused", Napi::Boolean::New(env, converted.reused));
          result.Set("identity", converted.identity);
          return result;
        });
      });
}

}  // namespace

void register_weights(Napi::Env env, Napi::Object exports) {
  exports.Set("inspectWeights", Napi::Function::New<guarded<inspect>>(env));
  exports.Set("describeWeights", Napi::Function::New<guarded<describe>>(env));
  exports.Set("findWeights", Napi::Function::New<guarded<find_weights>>(env));
  exports.Set("convertWeights", Napi::Function::New<guarded<convert>>(env));
}

}  // namespace jitflux::addon
