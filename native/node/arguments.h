// Reading and checking plain arguments on the JavaScript thread, before any work is queued.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "node/napi_setup.h"

namespace jitflux::addon {

// Throws kInvalidArgument 'Expected <expected> for "<name>" but received <received>'.
[[noreturn]] void invalid(const char* name, const std::string& expected,
                          const std::string& received);
// A value for messages.
std::string show(const Napi::Value& value);

// A shape of 1 to 8 dimensions of at least 1, whose product is at most 2^40.
std::vector<int64_t> parse_shape(const Napi::Value& value);

// Three positive numbers, or undefined.
std::optional<std::array<int64_t, 3>> parse_axes(const Napi::Value& value);

int64_t parse_integer(const Napi::Value& value, const char* name, int64_t low, int64_t high);
double parse_number(const Napi::Value& value, const char* name);
std::string parse_string(const Napi::Value& value, const char* name);
std::vector<double> parse_numbers(const Napi::Value& value, const char* name);  // Float64Array

}  // namespace jitflux::addon
