// Tensors: creation, reading back, and the layout changes around the transformer.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "addon/arguments.h"
#include "addon/environment.h"
#include "addon/errors.h"
#include "addon/registration.h"
#include "layers/arithmetic.h"
#include "layers/finite.h"
#include "node/metadata.h"
#include "residency/weight_tensors.h"
#include "runtime/device.h"
#include "runtime/random.h"
#include "weights/input_file.h"
#include "weights/reader_util.h"

namespace jitflux::addon {

Napi::Object tensor_handle(Napi::Env env, const at::Tensor& tensor) {
  // The garbage collector is told of the host's memory only.
  const bool host = tensor.device().is_cpu();
  return make_handle(env, std::make_shared<at::Tensor>(tensor),
                     host ? static_cast<int64_t>(tensor.nbytes()) : 0);
}

std::function<napi_value(Napi::Env)> settle_tensor(at::Tensor tensor) {
  return [tensor = std::move(tensor)](Napi::Env env) -> napi_value {
    return tensor_handle(env, tensor);
  };
}

std::function<napi_value(Napi::Env)> settle_floats(at::Tensor host) {
  return [host = std::move(host)](Napi::Env env) -> napi_value {
    Napi::Float32Array array = Napi::Float32Array::New(env, static_cast<size_t>(host.numel()));
    std::memcpy(array.Data(), host.const_data_ptr<float>(), host.nbytes());
    return array;
  };
}

std::function<napi_value(Napi::Env)> settle_doubles(std::vector<double> values) {
  return [values = std::move(values)](Napi::Env env) -> napi_value {
    Napi::Float64Array array = Napi::Float64Array::New(env, values.size());
    std::copy(values.begin(), values.end(), array.Data());
    return array;
  };
}

std::function<napi_value(Napi::Env)> settle_integers(std::vector<int32_t> values) {
  return [values = std::move(values)](Napi::Env env) -> napi_value {
    Napi::Int32Array array = Napi::Int32Array::New(env, values.size());
    std::copy(values.begin(), values.end(), array.Data());
    return array;
  };
}

namespace {

// target = source, on the target's inference thread: whatever is asked of the target afterwards
// happens there too, and so after it. This thread does not wait for the device.
void fill_later(Napi::Env env, const at::Tensor& target, const at::Tensor& source) {
  Environment::of(env).run_later(device_index(target),
                                 [target, source]() mutable { target.copy_(source); });
}

// Room on an accelerator for a tensor like this one.
at::Tensor empty_on(int device, const at::Tensor& like) {
  try {
    return at::empty(like.sizes(), like.options().device(device_backend()->device(device)));
  } catch (const c10::OutOfMemoryError&) {
    throw with_device_memory(current_exception(), device);
  }
}

// The tensor itself if it shall stay on the CPU, else a copy on the device.
at::Tensor sent_to(Napi::Env env, const at::Tensor& tensor, int device) {
  if (device < 0) return tensor;
  // A device that computes in host memory (the emulation of test/cuda): clone() copies such memory
  // on this thread, so the values have to be there as soon as the handle is.
  if (device_backend()->device(device).is_cpu()) return tensor;
  const at::Tensor there = empty_on(device, tensor);
  fill_later(env, there, tensor);
  return there;
}

// ({ data, shape, dtype, device })
Napi::Value tensor_from(const Napi::CallbackInfo& info) {
  const TensorFields o(info[0]);
  const std::vector<int64_t> shape = o.shape("shape");
  const at::ScalarType dtype = o.dtype();
  const int device = o.device();
  const Napi::Value value = o.get("data");
  if (!value.IsTypedArray()) invalid("data", "a typed array", show(value));
  const auto array = value.As<Napi::TypedArray>();
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
      invalid("data", "a Float32Array, Int32Array or BigInt64Array", show(value));
  }
  int64_t elements = 1;
  for (const int64_t d : shape) elements *= d;
  if (elements != static_cast<int64_t>(array.ElementLength())) {
    throw Error(error_code::kInvalidTensor, "The shape asks for " + std::to_string(elements) +
                                                " elements but \"data\" has " +
                                                std::to_string(array.ElementLength()));
  }
  at::Tensor tensor = at::empty(shape, source);
  // Not by way of array.ArrayBuffer(), which a SharedArrayBuffer is not.
  void* data = nullptr;
  napi_get_typedarray_info(info.Env(), array, nullptr, nullptr, &data, nullptr, nullptr);
  std::memcpy(tensor.mutable_data_ptr(), data, tensor.nbytes());
  return tensor_handle(info.Env(), sent_to(info.Env(), tensor.to(dtype), device));
}

// ({ shape, seeds: bigint[], dtype, device }): one draw, or one per image
Napi::Value tensor_randn(const Napi::CallbackInfo& info) {
  const TensorFields o(info[0]);
  const std::vector<int64_t> shape = o.shape("shape");
  const Napi::Value value = o.get("seeds");
  if (!value.IsArray()) invalid("seeds", "an array of bigints", show(value));
  const auto array = value.As<Napi::Array>();
  const uint32_t count = array.Length();
  expect_per_image(count, "seeds", shape[0]);
  std::vector<uint64_t> seeds;
  for (uint32_t i = 0; i < count; ++i) {
    bool lossless = false;
    const Napi::Value seed = array.Get(i);
    seeds.push_back(seed.IsBigInt() ? seed.As<Napi::BigInt>().Uint64Value(&lossless) : 0);
    if (!lossless) invalid("seeds", "bigints from 0 to 2^64 - 1", show(seed));
  }
  const at::ScalarType dtype = o.dtype();
  if (!at::isFloatingType(dtype)) invalid("dtype", "a floating point type", dtype_name(dtype));
  const int device = o.device();
  return tensor_handle(info.Env(), sent_to(info.Env(), randn(shape, seeds, dtype), device));
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
  // The memory decides, not device_index: an emulated device's tensors may be a CPU model's, which
  // runs on another thread.
  if (!tensor->device().is_cpu()) {
    const at::Tensor there = empty_on(device_index(*tensor), *tensor);
    fill_later(info.Env(), there, *tensor);
    return tensor_handle(info.Env(), there);
  }
  const at::Tensor copy = at::empty_like(*tensor);
  // memcpy, not at::clone: a parallel copy would start a second OpenMP team on this thread.
  std::memcpy(copy.mutable_data_ptr(), tensor->const_data_ptr(), tensor->nbytes());
  return tensor_handle(info.Env(), copy);
}

Napi::Value tensor_read(const Napi::CallbackInfo& info) {
  const at::Tensor tensor = *get_handle<at::Tensor>(info[0]);
  return Environment::of(info.Env())
      .run(info.Env(), info[1],
           [tensor](const Job&) {
             // A private copy: the tensor may be written to while the promise settles.
             const at::Tensor copy =
                 tensor.to(at::Device(at::kCPU), at::kFloat, /*non_blocking=*/false, /*copy=*/true);
             return settle_floats(copy);
           },
           {device_index(tensor)});
}

// (tensor, job) -> Int32Array, see not_finite_images
Napi::Value tensor_not_finite(const Napi::CallbackInfo& info) {
  const at::Tensor tensor = *get_handle<at::Tensor>(info[0]);
  return Environment::of(info.Env())
      .run(info.Env(), info[1],
           [tensor](const Job&) { return settle_integers(not_finite_images(tensor)); },
           {device_index(tensor)});
}

void expect_floating(const at::Tensor& tensor, const char* name) {
  if (at::isFloatingType(tensor.scalar_type())) return;
  throw Error(error_code::kInvalidTensor, "Expected numbers of a floating point type for \"" +
                                              std::string(name) + "\" but received " +
                                              describe_tensor(tensor));
}

// ({ tensor, scale, other?, otherScale }, job) -> scale * tensor + otherScale * other
Napi::Value tensor_combine(const Napi::CallbackInfo& info) {
  const TensorFields o(info[0]);
  const at::Tensor tensor = o.tensor("tensor");
  expect_floating(tensor, "tensor");
  const double scale = o.number("scale");
  const double other_scale = o.number("otherScale");
  at::Tensor other;
  if (!o.get("other").IsUndefined()) {
    other = o.tensor("other");
    expect_floating(other, "other");
    if (other.sizes() != tensor.sizes()) {
      throw Error(error_code::kInvalidTensor, "Expected two tensors of one shape but received " +
                                                  describe_tensor(tensor) + " and " +
                                                  describe_tensor(other));
    }
    common_device({tensor, other});
  }
  return Environment::of(info.Env())
      .run(info.Env(), info[1],
           [tensor, scale, other, other_scale](const Job&) {
             return settle_tensor(linear_combination(tensor, scale, other, other_scale));
           },
           {device_index(tensor)});
}

// ({ tensor, reduction }, job) -> Float64Array of a number per image, see reduce_images
Napi::Value tensor_reduce(const Napi::CallbackInfo& info) {
  const TensorFields o(info[0]);
  const at::Tensor tensor = o.tensor("tensor");
  expect_floating(tensor, "tensor");
  if (tensor.numel() == 0) {
    throw Error(error_code::kInvalidTensor,
                "Expected a tensor with elements but received " + describe_tensor(tensor));
  }
  const auto reduction = parse_choice<Reduction>(o.get("reduction"), "reduction",
                                                 {{"sum", Reduction::kSum},
                                                  {"norm", Reduction::kNorm},
                                                  {"min", Reduction::kLeast},
                                                  {"max", Reduction::kGreatest}});
  return Environment::of(info.Env())
      .run(info.Env(), info[1],
           [tensor, reduction](const Job&) {
             return settle_doubles(reduce_images(tensor, reduction));
           },
           {device_index(tensor)});
}

// (tensor, device, job): a copy there
Napi::Value tensor_to(const Napi::CallbackInfo& info) {
  const at::Tensor tensor = *get_handle<at::Tensor>(info[0]);
  const int device = parse_device(info[1]);
  // On the source's thread, after what it has still to do there; if that is the CPU, on the
  // target's: handles exist only once their values do.
  const int where = device_index(tensor) >= 0 ? device_index(tensor) : device;
  const at::Device target = device < 0 ? at::Device(at::kCPU) : device_backend()->device(device);
  return Environment::of(info.Env())
      .run(info.Env(), info[2],
           [tensor, target](const Job&) {
             return settle_tensor(tensor.to(target, tensor.scalar_type(), /*non_blocking=*/false,
                                            /*copy=*/true));
           },
           {where});
}

// (path, names, job) -> { tensors, metadata }: these tensors of a weight file as float32 on the
// CPU, in the order of the names, and its texts; all of one state of the file. Throws
// kWeightsChanged if it is not as it was when it was opened, or has no tensor of a name: whoever
// asks knows what it holds.
Napi::Value tensor_load(const Napi::CallbackInfo& info) {
  const std::string path = parse_string(info[0], "path");
  if (!info[1].IsArray()) invalid("names", "an array of strings", show(info[1]));
  const auto list = info[1].As<Napi::Array>();
  std::vector<std::string> names;
  for (uint32_t i = 0; i < list.Length(); ++i) names.push_back(parse_string(list.Get(i), "names"));
  return Environment::of(info.Env()).run(info.Env(), info[2], [path, names](const Job& job) {
    const auto file = WeightFile::open(path, {.metadata = true, .job = job});
    std::vector<at::Tensor> tensors;
    for (const std::string& name : names) {
      const WeightTensor* found = file->find(name);
      if (found == nullptr) {
        throw Error(error_code::kWeightsChanged,
                    printable_path(path) + ": " + in_quotes(name) + " has gone meanwhile",
                    {{"path", path}});
      }
      read_weight(*found, tensors.emplace_back(at::empty(found->shape, at::kFloat)));
      job.checkpoint();
    }
    for (const InputFile* input : file->inputs()) input->expect_unchanged();
    return Environment::Settle([file, tensors](Napi::Env env) -> napi_value {
      Napi::Array handles = Napi::Array::New(env, tensors.size());
      for (uint32_t i = 0; i < tensors.size(); ++i) handles.Set(i, tensor_handle(env, tensors[i]));
      Napi::Object result = Napi::Object::New(env);
      result.Set("tensors", handles);
      result.Set("metadata", metadata_to_js(env, *file));
      return result;
    });
  });
}

// Releases a model's handle; false if it is of another type. The model goes on its own inference
// thread: freeing gigabytes takes a while.
template <typename Model>
bool release_model(const Napi::CallbackInfo& info) {
  using Entry = ModelEntry<Model>;
  Box<Entry>* box = find_box<Entry>(info[0]);
  if (box == nullptr) return false;
  std::shared_ptr<Entry> entry = box->pointer;
  release_handle<Entry>(info[0]);
  if (entry == nullptr) return true;  // a second time
  const int device = entry->where.device;
  Environment& environment = Environment::of(info.Env());
  environment.run_later(device, [entry = std::move(entry)]() mutable { entry.reset(); });
  environment.return_memory(device);
  return true;
}

Napi::Value release(const Napi::CallbackInfo& info) {
  const bool known = release_handle<at::Tensor>(info[0]) ||
                     release_handle<const Conditioning>(info[0]) ||
                     release_model<FluxTransformer>(info) || release_model<ClipTextEncoder>(info) ||
                     release_model<T5Encoder>(info) || release_model<Autoencoder>(info);
  if (!known) {
    if (!release_handle<ScriptModule>(info[0])) {
      throw Error(error_code::kInvalidArgument, "Expected a native handle");
    }
    Environment::of(info.Env()).return_memory(-1);
  }
  return info.Env().Undefined();
}

}  // namespace

void register_tensor(Napi::Env env, Napi::Object exports) {
  exports.Set("tensorFrom", Napi::Function::New<guarded<tensor_from>>(env));
  exports.Set("tensorRandn", Napi::Function::New<guarded<tensor_randn>>(env));
  exports.Set("tensorInfo", Napi::Function::New<guarded<tensor_info>>(env));
  exports.Set("tensorClone", Napi::Function::New<guarded<tensor_clone>>(env));
  exports.Set("tensorTo", Napi::Function::New<guarded<tensor_to>>(env));
  exports.Set("tensorCombine", Napi::Function::New<guarded<tensor_combine>>(env));
  exports.Set("tensorReduce", Napi::Function::New<guarded<tensor_reduce>>(env));
  exports.Set("tensorLoad", Napi::Function::New<guarded<tensor_load>>(env));
  exports.Set("tensorNotFinite", Napi::Function::New<guarded<tensor_not_finite>>(env));
  exports.Set("tensorRead", Napi::Function::New<guarded<tensor_read>>(env));
  exports.Set("release", Napi::Function::New<guarded<release>>(env));
}

}  // namespace jitflux::addon
