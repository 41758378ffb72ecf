// Memory of a model's parts, from their architecture alone.
#include "describe/memory.h"

#include <array>
#include <string>
#include <utility>

#include "node/architectures.h"
#include "node/arguments.h"
#include "node/errors.h"
#include "weights_addon/registration.h"

namespace jitflux::addon {

namespace {

constexpr int64_t kMost = int64_t{1} << 52;

template <typename Value, size_t N>
Value parse_name(const Napi::Value& value, const char* name,
                 const std::array<std::pair<const char*, Value>, N>& known) {
  const std::string text = parse_string(value, name);
  std::string list;
  for (const auto& [known_name, known_value] : known) {
    if (text == known_name) return known_value;
    list += (list.empty() ? "" : ", ") + std::string(known_name);
  }
  invalid(name, "one of " + list, text);
}

WeightDType parse_dtype(const Napi::Value& value, const char* name) {
  using Entry = std::pair<const char*, WeightDType>;
  return parse_name<WeightDType, 4>(value, name,
                                    {Entry{"float32", WeightDType::kFloat32},
                                     {"bfloat16", WeightDType::kBFloat16},
                                     {"float16", WeightDType::kFloat16},
                                     {"float64", WeightDType::kFloat64}});
}

bool parse_is_accelerator(const Napi::Value& value) {
  using Entry = std::pair<const char*, bool>;
  return parse_name<bool, 2>(value, "device", {Entry{"cpu", false}, {"accelerator", true}});
}

WeightForm parse_form(const Napi::Value& value) {
  using Entry = std::pair<const char*, WeightForm>;
  return parse_name<WeightForm, 5>(value, "blockWeights",
                                   {Entry{"packed", WeightForm::kPacked},
                                    {"mapped", WeightForm::kMapped},
                                    {"int8", WeightForm::kInt8},
                                    {"resident", WeightForm::kResident},
                                    {"streamed", WeightForm::kStreamed}});
}

double parse_count(const Napi::Object& object, const char* key, int64_t least, int64_t most) {
  return static_cast<double>(parse_integer(object.Get(key), key, least, most));
}

MemoryWork parse_work(const Napi::Value& value) {
  if (!value.IsObject()) invalid("work", "an object", show(value));
  const auto object = value.As<Napi::Object>();
  MemoryWork work;
  work.rows = parse_count(object, "rows", 1, 1 << 20);
  work.cols = parse_count(object, "cols", 1, 1 << 20);
  work.text_tokens = parse_count(object, "textTokens", 0, 1 << 20);
  work.images = parse_count(object, "images", 1, 1 << 20);
  work.steps = parse_count(object, "steps", 1, 1 << 20);
  work.runs = parse_count(object, "runs", 1, 1 << 20);
  return work;
}

// (MemoryRequest of src/engine/binding.ts) -> NativeComponentMemory
Napi::Value component_memory(const Napi::CallbackInfo& info) {
  if (!info[0].IsObject()) invalid("request", "an object", show(info[0]));
  const auto object = info[0].As<Napi::Object>();
  MemoryRequest request;
  const std::string part = parse_string(object.Get("part"), "part");
  const Napi::Value architecture = object.Get("architecture");
  if (!architecture.IsUndefined()) request.architecture = parse_architecture(part, architecture);
  if (!object.Get("parameters").IsUndefined()) {
    request.parameters = parse_count(object, "parameters", 0, kMost);
  }
  const Napi::Value stored = object.Get("storedDType");
  if (!stored.IsUndefined()) request.stored = parse_dtype(stored, "storedDType");
  request.file_bytes = parse_count(object, "fileBytes", 0, kMost);
  request.dtype = parse_dtype(object.Get("dtype"), "dtype");
  request.accelerator = parse_is_accelerator(object.Get("device"));
  request.form = parse_form(object.Get("blockWeights"));
  request.keep_modulation = object.Get("keepModulation").ToBoolean();
  request.work = parse_work(object.Get("work"));

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
