// Memory of a model's parts, from their architecture alone.
#include "describe/memory.h"

#include <string>

#include "node/architectures.h"
#include "node/arguments.h"
#include "node/errors.h"
#include "weights_addon/registration.h"

namespace jitflux::addon {

namespace {

constexpr int64_t kMost = int64_t{1} << 52;

WeightDType parse_dtype(const Fields& from, const char* name) {
  return from.choice<WeightDType>(name, {{"float32", WeightDType::kFloat32},
                                         {"bfloat16", WeightDType::kBFloat16},
                                         {"float16", WeightDType::kFloat16},
                                         {"float64", WeightDType::kFloat64}});
}

double parse_count(const Fields& from, const char* name, int64_t least, int64_t most) {
  return static_cast<double>(from.integer(name, least, most));
}

MemoryWork parse_work(const Napi::Value& value) {
  const Fields from(value, "work");
  MemoryWork work;
  work.rows = parse_count(from, "rows", 1, 1 << 20);
  work.cols = parse_count(from, "cols", 1, 1 << 20);
  work.text_tokens = parse_count(from, "textTokens", 0, 1 << 20);
  work.images = parse_count(from, "images", 1, 1 << 20);
  work.steps = parse_count(from, "steps", 1, 1 << 20);
  work.runs = parse_count(from, "runs", 1, 1 << 20);
  return work;
}

// (MemoryRequest of src/engine/binding.ts) -> PartMemory
Napi::Value component_memory(const Napi::CallbackInfo& info) {
  const Fields from(info[0], "request");
  MemoryRequest request;
  const std::string part = from.string("part");
  const Napi::Value architecture = from.get("architecture");
  if (!architecture.IsUndefined()) request.architecture = parse_architecture(part, architecture);
  if (!from.get("parameters").IsUndefined()) {
    request.parameters = parse_count(from, "parameters", 0, kMost);
  }
  if (!from.get("storedDType").IsUndefined()) request.stored = parse_dtype(from, "storedDType");
  request.file_bytes = parse_count(from, "fileBytes", 0, kMost);
  request.dtype = parse_dtype(from, "dtype");
  request.accelerator = from.choice<bool>("device", {{"cpu", false}, {"accelerator", true}});
  request.form = from.choice<WeightForm>("blockWeights", {{"packed", WeightForm::kPacked},
                                                          {"mapped", WeightForm::kMapped},
                                                          {"int8", WeightForm::kInt8},
                                                          {"resident", WeightForm::kResident},
                                                          {"streamed", WeightForm::kStreamed}});
  request.keep_modulation = from.boolean("keepModulation");
  request.map_weights = from.boolean("mapWeights");
  request.work = parse_work(from.get("work"));

  const ComponentMemory memory = jitflux::component_memory(request);
  Napi::Object result = Napi::Object::New(info.Env());
  if (memory.parameters) result.Set("parameters", *memory.parameters);
  result.Set("residentBytes", memory.resident);
  result.Set("copiedBytes", memory.copied);
  if (memory.streamed) result.Set("streamedBytes", *memory.streamed);
  result.Set("mapped", Napi::Boolean::New(info.Env(), memory.mapped));
  result.Set("transientBytes", memory.transient);
  return result;
}

}  // namespace

void register_memory(Napi::Env env, Napi::Object exports) {
  exports.Set("componentMemory", Napi::Function::New<guarded<component_memory>>(env));
}

}  // namespace jitflux::addon
