// Tensors: creation, reading back, and the layout changes around the transformer.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <cstring>

#include "addon/arguments.h"
#include "addon/environment.h"
#include "addon/errors.h"
#include "addon/registration.h"
#include "runtime/random.h"

namespace jitflux::addon {

Napi::Object tensor_handle(Napi::Env env, const at::Tensor& tensor) {
  return make_handle(env, std::make_shared<at::Tensor>(tensor),
                     static_cast<int64_t>(tensor.nbytes()));
}

std::function<napi_value(Napi::Env)> settle_tensor(at::Tensor tensor) {
  return [tensor = std::move(tensor)](Napi::Env env) -> napi_value {
    return tensor_handle(env, tensor);
  };
}

namespace {

Napi::Value tensor_from(const Napi::CallbackInfo& info) {
  const std::vector<int64_t> shape = parse_shape(info[1]);
  const at::ScalarType dtype = parse_dtype(info[2]);
  if (!info[0].IsTypedArray()) {
    throw Error(error_code::kInvalidArgument, "Expected a typed array for \"data\"");
  }
  const auto array = info[0].As<Napi::TypedArray>();
  at::ScalarType source;
  switch (array.TypedArrayType()) {
    case napi_float32_array:
      source = at::kFloat;
      break;
    case napi_int32_array:
      source = at::kInt;
      break;
    case napi_bigint64_array:
      source = at::kLong;
      break;
    default:
      throw Error(error_code::kInvalidArgument,
                  "Expected a Float32Array, Int32Array or BigInt64Array for \"data\"");
  }
  int64_t elements = 1;
  for (const int64_t d : shape) elements *= d;
  if (elements != static_cast<int64_t>(array.ElementLength())) {
    throw Error(error_code::kInvalidTensor, "The shape asks for " + std::to_string(elements) +
                                                " elements but \"data\" has " +
                                                std::to_string(array.ElementLength()));
  }
  at::Tensor tensor = at::empty(shape, source);
  std::memcpy(tensor.mutable_data_ptr(),
              static_cast<const std::byte*>(array.ArrayBuffer().Data()) + array.ByteOffset(),
              array.ByteLength());
  return tensor_handle(info.Env(), tensor.to(dtype));
}

Napi::Value tensor_randn(const Napi::CallbackInfo& info) {
  const std::vector<int64_t> shape = parse_shape(info[0]);
  if (!info[1].IsArray()) {
    throw Error(error_code::kInvalidArgument, "Expected an array of bigints for \"seeds\"");
  }
  const auto array = info[1].As<Napi::Array>();
  std::vector<uint64_t> seeds;
  for (uint32_t i = 0; i < array.Length(); ++i) {
    bool lossless = false;
    const Napi::Value seed = array.Get(i);
    seeds.push_back(seed.IsBigInt() ? seed.As<Napi::BigInt>().Uint64Value(&lossless) : 0);
    if (!lossless) {
      throw Error(error_code::kInvalidArgument, "Expected seeds from 0 to 2^64 - 1 for \"seeds\"");
    }
  }
  if (seeds.size() != 1 && static_cast<int64_t>(seeds.size()) != shape[0]) {
    throw Error(error_code::kInvalidArgument, "Expected one seed, or one per image, for \"seeds\"");
  }
  const at::ScalarType dtype = parse_dtype(info[2]);
  if (!at::isFloatingType(dtype)) {
    throw Error(error_code::kInvalidArgument, "Expected a floating point \"dtype\" for randn");
  }
  return tensor_handle(info.Env(), randn(shape, seeds, dtype));
}

Napi::Value tensor_info(const Napi::CallbackInfo& info) {
  const auto tensor = get_handle<at::Tensor>(info[0]);
  Napi::Object result = Napi::Object::New(info.Env());
  Napi::Array shape = Napi::Array::New(info.Env());
  for (int64_t i = 0; i < tensor->dim(); ++i) {
    shape.Set(static_cast<uint32_t>(i),
              Napi::Number::New(info.Env(), static_cast<double>(tensor->size(i))));
  }
  result.Set("shape", shape);
  result.Set("dtype", dtype_name(tensor->scalar_type()));
  result.Set("device", tensor->device().str());
  return result;
}

Napi::Value tensor_clone(const Napi::CallbackInfo& info) {
  const auto tensor = get_handle<at::Tensor>(info[0]);
  // memcpy, not at::clone: a parallel copy would start a second OpenMP team on this thread.
  at::Tensor copy = at::empty_like(*tensor);
  std::memcpy(copy.mutable_data_ptr(), tensor->const_data_ptr(), tensor->nbytes());
  return tensor_handle(info.Env(), copy);
}

Napi::Value tensor_read(const Napi::CallbackInfo& info) {
  const at::Tensor tensor = *get_handle<at::Tensor>(info[0]);
  return Environment::of(info.Env()).run(info.Env(), info[1], [tensor](const Job&) {
    // A private copy: the tensor may be written to while the promise settles.
    const at::Tensor copy = tensor.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true);
    return [copy](Napi::Env env) -> napi_value {
      Napi::Float32Array array = Napi::Float32Array::New(env, static_cast<size_t>(copy.numel()));
      std::memcpy(array.Data(), copy.const_data_ptr<float>(), copy.nbytes());
      return array;
    };
  });
}

Napi::Value release(const Napi::CallbackInfo& info) {
  if (release_handle<at::Tensor>(info[0]) || release_handle<const Conditioning>(info[0])) {
    return info.Env().Undefined();
  }
  const bool model = release_handle<TransformerEntry>(info[0]) ||
                     release_handle<ScriptModule>(info[0]) ||
                     release_handle<ModelEntry<ClipTextEncoder>>(info[0]) ||
                     release_handle<ModelEntry<T5Encoder>>(info[0]) ||
                     release_handle<ModelEntry<Autoencoder>>(info[0]);
  if (!model) throw Error(error_code::kInvalidArgument, "Expected a native handle");
  Environment::of(info.Env()).return_memory();
  return info.Env().Undefined();
}

Napi::Value create_abort_flag(const Napi::CallbackInfo& info) {
  return make_handle(info.Env(), std::make_shared<std::atomic<bool>>(false));
}

Napi::Value raise_abort_flag(const Napi::CallbackInfo& info) {
  get_handle<std::atomic<bool>>(info[0])->store(true);
  return info.Env().Undefined();
}

}  // namespace

void register_tensor(Napi::Env env, Napi::Object exports) {
  exports.Set("tensorFrom", Napi::Function::New<guarded<tensor_from>>(env));
  exports.Set("tensorRandn", Napi::Function::New<guarded<tensor_randn>>(env));
  exports.Set("tensorInfo", Napi::Function::New<guarded<tensor_info>>(env));
  exports.Set("tensorClone", Napi::Function::New<guarded<tensor_clone>>(env));
  exports.Set("tensorRead", Napi::Function::New<guarded<tensor_read>>(env));
  exports.Set("release", Napi::Function::New<guarded<release>>(env));
  exports.Set("createAbortFlag", Napi::Function::New<guarded<create_abort_flag>>(env));
  exports.Set("raiseAbortFlag", Napi::Function::New<guarded<raise_abort_flag>>(env));
}

}  // namespace jitflux::addon
