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

at::ScalarType parse_dtype(const Napi::Value& value) {
  const std::string name = value.IsString() ? value.As<Napi::String>().Utf8Value() : show(value);
  for (const at::ScalarType dtype :
       {at::kFloat, at::kBFloat16, at::kHalf, at::kDouble, at::kInt, at::kLong}) {
    if (name == dtype_name(dtype)) return dtype;
  }
  invalid("dtype", "one of float32, bfloat16, float16, float64, int32, int64", name);
}

at::ScalarType parse_compute_dtype(const Napi::Value& value, int device) {
  const at::ScalarType dtype = parse_dtype(value);
  if (dtype == at::kFloat || dtype == at::kBFloat16) return dtype;
  if (device < 0) invalid("dtype", "float32 or bfloat16 on the CPU", show(value));
  if (dtype != at::kHalf) invalid("dtype", "float32, bfloat16 or float16", show(value));
  return dtype;
}

int parse_device(const Napi::Value& value) {
  DeviceBackend* backend = device_backend();
  const int count = backend == nullptr ? 0 : backend->count();
  const auto index = static_cast<int>(parse_integer(value, "device", -1, 1024));
  if (index < count) return index;
  throw Error(error_code::kDeviceUnavailable, "There is no device cuda:" + std::to_string(index) +
                                                  "; devices: " + std::to_string(count));
}

Placement parse_placement(const Napi::Object& options) {
  return {parse_device(options.Get("device")),
          static_cast<int>(parse_integer(options.Get("threads"), "threads", 0, 1024))};
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

Grid parse_grid(const Napi::Value& rows, const Napi::Value& cols) {
  Grid grid;
  grid.rows = parse_integer(rows, "grid rows", 1, 4096);
  grid.cols = parse_integer(cols, "grid columns", 1, 4096);
  check_grid(grid);
  return grid;
}

std::string describe_tensor(const at::Tensor& tensor) {
  return std::string(dtype_name(tensor.scalar_type())) + " " + show_shape(tensor.sizes());
}

at::Tensor parse_token_ids(const Napi::Value& value, const char* name, int64_t vocabulary,
                           int64_t max_tokens) {
  const at::Tensor ids = *get_handle<at::Tensor>(value);
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
  const at::Tensor tensor = *get_handle<at::Tensor>(value);
  if (tensor.scalar_type() != at::kFloat || tensor.dim() != 3) {
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

TokenLists parse_token_lists(const Napi::Value& value, const char* name, int64_t images,
                             int64_t count, int64_t tokens) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_int32_array) {
    throw Error(error_code::kInvalidAnchors, std::string("Expected an Int32Array for \"") + name +
                                                 "\" but received " + show(value));
  }
  const auto array = value.As<Napi::Int32Array>();
  TokenLists lists;
  // Copied: the caller may change or detach the array while the work is queued.
  lists.tokens.assign(array.Data(), array.Data() + array.ElementLength());
  const auto size = static_cast<int64_t>(lists.tokens.size());
  lists.count = count < 0 ? size : count;
  if (size != lists.count && size != images * lists.count) {
    throw Error(error_code::kInvalidAnchors, "Expected " + std::to_string(lists.count) +
                                                 " tokens (or that many for each of " +
                                                 std::to_string(images) + " images) for \"" + name +
                                                 "\" but received " + std::to_string(size));
  }
  check_token_lists(lists, tokens);
  return lists;
}

TokenLists parse_flagged_lists(const Napi::Value& value, const char* name,
                               const at::Tensor& latents, bool per_image) {
  int64_t count = -1;
  if (per_image && latents.size(0) > 0 && value.IsTypedArray()) {
    count = static_cast<int64_t>(value.As<Napi::TypedArray>().ElementLength()) / latents.size(0);
  }
  return parse_token_lists(value, name, latents.size(0), count, latents.size(1));
}

}  // namespace jitflux::addon
