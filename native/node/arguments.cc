#include "node/arguments.h"

#include <cmath>

#include "base/error.h"

namespace jitflux::addon {

void invalid(const char* name, const std::string& expected, const std::string& received) {
  throw Error(error_code::kInvalidArgument,
              "Expected " + expected + " for \"" + name + "\" but received " + received);
}

std::string show(const Napi::Value& value) {
  if (value.IsNumber() || value.IsString() || value.IsBoolean() || value.IsUndefined() ||
      value.IsNull()) {
    return value.ToString().Utf8Value();
  }
  return "a value of another type";
}

std::vector<int64_t> parse_shape(const Napi::Value& value) {
  constexpr int64_t kMaxElements = int64_t{1} << 40;
  if (!value.IsArray()) invalid("shape", "an array of dimensions", show(value));
  const auto array = value.As<Napi::Array>();
  if (array.Length() < 1 || array.Length() > 8) {
    invalid("shape", "1 to 8 dimensions", std::to_string(array.Length()));
  }
  std::vector<int64_t> shape;
  int64_t elements = 1;
  for (uint32_t i = 0; i < array.Length(); ++i) {
    shape.push_back(parse_integer(array.Get(i), "shape", 1, kMaxElements));
    if (shape.back() > kMaxElements / elements) invalid("shape", "at most 2^40 elements", "more");
    elements *= shape.back();
  }
  return shape;
}

std::optional<std::array<int64_t, 3>> parse_axes(const Napi::Value& value) {
  if (value.IsUndefined()) return std::nullopt;
  const std::vector<int64_t> axes = parse_shape(value);
  if (axes.size() != 3) {
    throw Error(error_code::kInvalidArgument, "Expected three numbers for \"ropeAxes\"");
  }
  return std::array<int64_t, 3>{axes[0], axes[1], axes[2]};
}

int64_t parse_integer(const Napi::Value& value, const char* name, int64_t low, int64_t high) {
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : std::nan("");
  if (!(number >= static_cast<double>(low) && number <= static_cast<double>(high)) ||
      number != std::floor(number)) {
    invalid(name, "an integer from " + std::to_string(low) + " to " + std::to_string(high),
            show(value));
  }
  return static_cast<int64_t>(number);
}

double parse_number(const Napi::Value& value, const char* name) {
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : std::nan("");
  if (!std::isfinite(number)) invalid(name, "a finite number", show(value));
  return number;
}

std::string parse_string(const Napi::Value& value, const char* name) {
  if (!value.IsString()) invalid(name, "a string", show(value));
  return value.As<Napi::String>().Utf8Value();
}

std::vector<double> parse_numbers(const Napi::Value& value, const char* name) {
  if (!value.IsTypedArray() ||
      value.As<Napi::TypedArray>().TypedArrayType() != napi_float64_array) {
    invalid(name, "a Float64Array", show(value));
  }
  const auto array = value.As<Napi::Float64Array>();
  std::vector<double> numbers(array.Data(), array.Data() + array.ElementLength());
  for (const double number : numbers) {
    if (!std::isfinite(number)) invalid(name, "finite numbers", std::to_string(number));
  }
  return numbers;
}

}  // namespace jitflux::addon
