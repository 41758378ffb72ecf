// Reading and checking plain arguments on the JavaScript thread, before any work is queued. Errors
// have the wording and the details (option, expected, received) of src/errors.ts.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include "node/handle.h"
#include "node/napi_setup.h"

namespace jitflux::addon {

// Throws kInvalidArgument 'Expected <expected> for "<name>" but received <received>'.
[[noreturn]] void invalid(const char* name, const std::string& expected,
                          const std::string& received);
// A value for messages.
std::string show(const Napi::Value& value);

// A shape of 1 to 8 dimensions of at least 1, whose product is at most 2^40.
std::vector<int64_t> parse_shape(const Napi::Value& value, const char* name);

// Three positive numbers, or undefined.
std::optional<std::array<int64_t, 3>> parse_axes(const Napi::Value& value, const char* name);

int64_t parse_integer(const Napi::Value& value, const char* name, int64_t low, int64_t high);
double parse_number(const Napi::Value& value, const char* name);
bool parse_boolean(const Napi::Value& value, const char* name);
std::string parse_string(const Napi::Value& value, const char* name);
std::vector<double> parse_numbers(const Napi::Value& value, const char* name);    // Float64Array
std::vector<int32_t> parse_integers(const Napi::Value& value, const char* name);  // Int32Array

// A string of an enumeration and what it stands for.
template <typename T>
struct Choice {
  const char* name;
  T value;
};

[[noreturn]] void invalid_choice(const char* name, const std::vector<const char*>& choices,
                                 const Napi::Value& received);

template <typename T>
T parse_choice(const Napi::Value& value, const char* name,
               std::initializer_list<Choice<T>> choices) {
  const std::string given = value.IsString() ? value.As<Napi::String>().Utf8Value() : "";
  std::vector<const char*> names;
  for (const Choice<T>& choice : choices) {
    if (given == choice.name) return choice.value;
    names.push_back(choice.name);
  }
  invalid_choice(name, names, value);
}

// Throws kInvalidArgument unless a list has one value, or one per image.
void expect_per_image(size_t count, const char* name, int64_t images);

// One value for all images, or one per image: as one per image. The number of values is checked
// before anything looks at one of them.
template <typename T>
std::vector<T> per_image(std::vector<T> values, const char* name, int64_t images) {
  expect_per_image(values.size(), name, images);
  if (values.size() == 1) values.resize(static_cast<size_t>(images), values[0]);
  return values;
}

// An argument whose parts have names. Every error names the field at fault.
class Fields {
 public:
  // Throws kInvalidArgument unless `value` is an object. `name`: the argument's, for the message.
  explicit Fields(const Napi::Value& value, const char* name = "options");

  // undefined if there is no such field. Runs a getter, if the object has one: ask once.
  Napi::Value get(const char* name) const { return object_.Get(name); }

  int64_t integer(const char* name, int64_t low, int64_t high) const {
    return parse_integer(get(name), name, low, high);
  }
  double number(const char* name) const { return parse_number(get(name), name); }
  bool boolean(const char* name) const { return parse_boolean(get(name), name); }
  std::string string(const char* name) const { return parse_string(get(name), name); }
  std::vector<double> numbers(const char* name) const { return parse_numbers(get(name), name); }
  std::vector<int32_t> integers(const char* name) const { return parse_integers(get(name), name); }
  std::vector<int64_t> shape(const char* name) const { return parse_shape(get(name), name); }
  std::optional<std::array<int64_t, 3>> axes(const char* name) const {
    return parse_axes(get(name), name);
  }
  template <typename T>
  T choice(const char* name, std::initializer_list<Choice<T>> choices) const {
    return parse_choice<T>(get(name), name, choices);
  }
  template <typename T>
  std::shared_ptr<T> handle(const char* name) const {
    return get_handle<T>(get(name), name);
  }

 private:
  Napi::Object object_;
};

}  // namespace jitflux::addon
