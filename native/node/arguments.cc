#include "node/arguments.h"

#include <cmath>

#include "base/error.h"

namespace jitflux::addon {

namespace {

// The array, or kInvalidArgument. `wanted` names its type.
template <typename Array>
Array typed_array(const Napi::Value& value, napi_typedarray_type type, const char* name,
                  const char* wanted) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != type) {
    invalid(name, wanted, show(value));
  }
  return value.As<Array>();
}

}  // namespace

void invalid(const char* name, const std::string& expected, const std::string& received) {
  throw Error(error_code::kInvalidArgument,
              "Expected " + expected + " for \"" + name + "\" but received " + received,
              {{"option", std::string(name)}, {"expected", expected}, {"received", received}});
}

void invalid_choice(const char* name, const std::vector<const char*>& choices,
                    const Napi::Value& received) {
  std::string expected;
  for (size_t i = 0; i < choices.size(); ++i) {
    expected += i == 0 ? "" : i + 1 == choices.size() ? " or " : ", ";
    expected += std::string("'") + choices[i] + "'";
  }
  invalid(name, expected,
          received.IsString() ? "'" + show(received) + "'" : std::string(show(received)));
}

std::string show(const Napi::Value& value) {
  if (value.IsNumber() || value.IsString() || value.IsBoolean() || value.IsUndefined() ||
      value.IsNull()) {
    return value.ToString().Utf8Value();
  }
  return "a value of another type";
}

std::vector<int64_t> parse_shape(const Napi::Value& value, const char* name) {
  constexpr int64_t kMaxElements = int64_t{1} << 40;
  if (!value.IsArray()) invalid(name, "an array of dimensions", show(value));
  const auto array = value.As<Napi::Array>();
  const uint32_t dimensions = array.Length();
  if (dimensions < 1 || dimensions > 8) {
    invalid(name, "1 to 8 dimensions", std::to_string(dimensions));
  }
  std::vector<int64_t> shape;
  int64_t elements = 1;
  for (uint32_t i = 0; i < dimensions; ++i) {
    shape.push_back(parse_integer(array.Get(i), name, 1, kMaxElements));
    if (shape.back() > kMaxElements / elements) invalid(name, "at most 2^40 elements", "more");
    elements *= shape.back();
  }
  return shape;
}

std::optional<std::array<int64_t, 3>> parse_axes(const Napi::Value& value, const char* name) {
  if (value.IsUndefined()) return std::nullopt;
  const std::vector<int64_t> axes = parse_shape(value, name);
  if (axes.size() != 3) invalid(name, "three numbers", std::to_string(axes.size()));
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

bool parse_boolean(const Napi::Value& value, const char* name) {
  if (!value.IsBoolean()) invalid(name, "true or false", show(value));
  return value.As<Napi::Boolean>().Value();
}

std::string parse_string(const Napi::Value& value, const char* name) {
  if (!value.IsString()) invalid(name, "a string", show(value));
  return value.As<Napi::String>().Utf8Value();
}

std::vector<double> parse_numbers(const Napi::Value& value, const char* name) {
  const auto array =
      typed_array<Napi::Float64Array>(value, napi_float64_array, name, "a Float64Array");
  std::vector<double> numbers(array.Data(), array.Data() + array.ElementLength());
  for (const double number : numbers) {
    if (!std::isfinite(number)) invalid(name, "finite numbers", std::to_string(number));
  }
  return numbers;
}

std::vector<int32_t> parse_integers(const Napi::Value& value, const char* name) {
  const auto array = typed_array<Napi::Int32Array>(value, napi_int32_array, name, "an Int32Array");
  return {array.Data(), array.Data() + array.ElementLength()};
}

void expect_per_image(size_t count, const char* name, int64_t images) {
  if (count == 1 || static_cast<int64_t>(count) == images) return;
  invalid(name, "one value, or one per image (" + std::to_string(images) + "),",
          std::to_string(count));
}

Fields::Fields(const Napi::Value& value, const char* name) {
  if (!value.IsObject()) invalid(name, "an object", show(value));
  object_ = value.As<Napi::Object>();
}

}  // namespace jitflux::addon
