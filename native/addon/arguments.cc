#include "addon/arguments.h"

#include "runtime/device.h"

namespace jitflux::addon {

namespace {

std::string show_shape(at::IntArrayRef shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  }
  return text + "]";
}

}  // namespace

int parse_device(const Napi::Value& value) {
  DeviceBackend* backend = device_backend();
  const int count = backend == nullptr ? 0 : backend->count();
  const auto index = static_cast<int>(parse_integer(value, "device", -1, INT32_MAX));
  if (index < count) return index;
  throw Error(error_code::kDeviceUnavailable, "There is no device cuda:" + std::to_string(index) +
                                                  "; devices: " + std::to_string(count));
}

int parse_accelerator(const Napi::Value& value) {
  const int device = parse_device(value);
  if (device < 0) invalid("device", "an accelerator", "the CPU");
  return device;
}

void expect_device(const at::Tensor& tensor, const char* name, int device) {
  const int actual = device_index(tensor);
  // Without an accelerator of its own, an emulated one computes in the CPU's memory.
  if (actual == device || (device < 0 && tensor.device().is_cpu())) return;
  throw Error(error_code::kInvalidTensor,
              "Expected a tensor on " +
                  (device < 0 ? std::string("the CPU") : device_backend()->device(device).str()) +
                  " for \"" + name + "\" but received one on " + tensor.device().str());
}

int common_device(std::initializer_list<at::Tensor> tensors) {
  const at::Device device = tensors.begin()->device();
  for (const at::Tensor& tensor : tensors) {
    if (tensor.device() != device) {
      throw Error(error_code::kInvalidTensor, "Expected tensors on one device but received " +
                                                  device.str() + " and " + tensor.device().str());
    }
  }
  return device_index(device);
}

const char* dtype_name(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat:
      return "float32";
    case at::kBFloat16:
      return "bfloat16";
    case at::kHalf:
      return "float16";
    case at::kDouble:
      return "float64";
    case at::kInt:
      return "int32";
    case at::kLong:
      return "int64";
    default:
      return "other";
  }
}

std::string describe_tensor(const at::Tensor& tensor) {
  return std::string(dtype_name(tensor.scalar_type())) + " " + show_shape(tensor.sizes());
}

at::Tensor parse_token_ids(const Napi::Value& value, const char* name, int64_t vocabulary,
                           int64_t max_tokens) {
  const at::Tensor ids = *get_handle<at::Tensor>(value, name);
  if (ids.scalar_type() != at::kLong || ids.dim() != 2 || !ids.is_contiguous()) {
    throw Error(error_code::kInvalidTensor,
                std::string("Expected an int64 tensor of shape [images, tokens] for \"") + name +
                    "\" but received " + describe_tensor(ids));
  }
  if (ids.size(1) > max_tokens) {
    throw Error(error_code::kInvalidTensor, "Expected at most " + std::to_string(max_tokens) +
                                                " tokens for \"" + name + "\" but received " +
                                                std::to_string(ids.size(1)));
  }
  if (!ids.device().is_cpu()) {
    throw Error(error_code::kInvalidTensor, std::string("Expected token ids on the CPU for \"") +
                                                name + "\" but received some on " +
                                                ids.device().str());
  }
  const int64_t* data = ids.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < ids.numel(); ++i) {
    if (data[i] < 0 || data[i] >= vocabulary) {
      throw Error(error_code::kInvalidTensor,
                  "Expected token ids from 0 to " + std::to_string(vocabulary - 1) + " for \"" +
                      name + "\" but received " + std::to_string(data[i]) + " at position " +
                      std::to_string(i % ids.size(1)));
    }
  }
  return ids;
}

at::Tensor parse_tokens(const Napi::Value& value, const char* name) {
  const at::Tensor tensor = *get_handle<at::Tensor>(value, name);
  if (tensor.scalar_type() != at::kFloat || tensor.dim() != 3 || tensor.numel() == 0) {
    throw Error(
        error_code::kInvalidTensor,
        std::string("Expected a float32 tensor of shape [images, tokens, channels] for \"") + name +
            "\" but received " + dtype_name(tensor.scalar_type()) + " " +
            show_shape(tensor.sizes()));
  }
  return tensor;
}

void expect_tokens(const at::Tensor& tensor, const char* name, int64_t images, int64_t tokens,
                   int64_t channels) {
  const std::vector<int64_t> expected = {images, tokens, channels};
  if (tensor.sizes() != at::IntArrayRef(expected)) {
    throw Error(error_code::kInvalidTensor, std::string("Expected shape ") + show_shape(expected) +
                                                " for \"" + name + "\" but received " +
                                                show_shape(tensor.sizes()));
  }
}

namespace {

// Throws kInvalidAnchors unless the value is an Int32Array.
Napi::Int32Array token_array(const Napi::Value& value, const char* name) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_int32_array) {
    throw Error(error_code::kInvalidAnchors, std::string("Expected an Int32Array for \"") + name +
                                                 "\" but received " + show(value));
  }
  return value.As<Napi::Int32Array>();
}

// `count` tokens for all images, or for each.
TokenLists checked_lists(const Napi::Int32Array& array, const char* name, int64_t images,
                         int64_t count, int64_t tokens) {
  const auto size = static_cast<int64_t>(array.ElementLength());
  if (size != count && size != images * count) {
    throw Error(error_code::kInvalidAnchors, "Expected " + std::to_string(count) +
                                                 " tokens (or that many for each of " +
                                                 std::to_string(images) + " images) for \"" + name +
                                                 "\" but received " + std::to_string(size));
  }
  TokenLists lists;
  lists.count = count;
  // Copied: the caller may change or detach the array while the work is queued.
  lists.tokens.assign(array.Data(), array.Data() + size);
  check_token_lists(lists, tokens);
  return lists;
}

constexpr int kMaxThreads = 1024;

}  // namespace

Placement TensorFields::placement() const {
  // Users meet the bound in TypeScript (load-options.ts), from 1 on; here it guards the process.
  return {device(), static_cast<int>(integer("threads", 0, kMaxThreads))};
}

at::ScalarType TensorFields::dtype() const {
  return choice<at::ScalarType>("dtype", {{"float32", at::kFloat},
                                          {"bfloat16", at::kBFloat16},
                                          {"float16", at::kHalf},
                                          {"float64", at::kDouble},
                                          {"int32", at::kInt},
                                          {"int64", at::kLong}});
}

at::ScalarType TensorFields::compute_dtype(int device) const {
  if (device < 0) {
    return choice<at::ScalarType>("dtype", {{"float32", at::kFloat}, {"bfloat16", at::kBFloat16}});
  }
  return choice<at::ScalarType>(
      "dtype", {{"float32", at::kFloat}, {"bfloat16", at::kBFloat16}, {"float16", at::kHalf}});
}

Grid TensorFields::grid() const {
  const Napi::Value value = get("grid");
  const std::string side = "integers from 1 to " + std::to_string(kMaxGridSide);
  if (!value.IsArray() || value.As<Napi::Array>().Length() != 2) {
    invalid("grid", "[rows, columns], " + side + ",", show(value));
  }
  const auto array = value.As<Napi::Array>();
  return {parse_integer(array.Get(uint32_t{0}), "grid rows", 1, kMaxGridSide),
          parse_integer(array.Get(uint32_t{1}), "grid columns", 1, kMaxGridSide)};
}

TokenLists TensorFields::token_lists(const char* name, int64_t images, int64_t count,
                                     int64_t tokens) const {
  return checked_lists(token_array(get(name), name), name, images, count, tokens);
}

TokenLists TensorFields::token_lists(const char* name, const at::Tensor& latents) const {
  const bool per_image = boolean("perImage");
  const Napi::Int32Array array = token_array(get(name), name);
  const auto size = static_cast<int64_t>(array.ElementLength());
  const int64_t images = latents.size(0);
  const int64_t count = per_image ? size / images : size;
  return checked_lists(array, name, images, count, latents.size(1));
}

}  // namespace jitflux::addon
