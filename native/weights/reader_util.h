// Helpers shared by the weight readers: typed failures, overflow-safe arithmetic, printable names.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/error.h"
#include "weights/weight_file.h"

namespace jitflux {

static_assert(std::endian::native == std::endian::little, "weight files are little-endian");

// Limits that no legitimate weight file comes near; beyond them a file is kUnsafeFile.
inline constexpr size_t kMaxTensors = size_t{1} << 18;
inline constexpr size_t kMaxNameLength = 1024;
inline constexpr size_t kMaxRank = 16;

// Throws Error{code, "<path>: <reason>", {path}}.
[[noreturn]] void fail(const char* code, const std::string& path, const std::string& reason);

// Throws kUnsupportedFormat if a file begins with text where weights should be, as a Git LFS
// pointer, an HTML page or the message of a server do. `bytes`: the first of the file.
void refuse_text(const std::string& path, std::span<const std::byte> bytes);

// Text from a file made fit for a message or a terminal: control bytes escaped, long text cut.
std::string printable(std::string_view text, size_t most = 160);
// The same of a path, of which nothing is cut that a system takes: who unpacks a stranger's archive
// has a stranger's file names.
std::string printable_path(std::string_view path);
std::string in_quotes(std::string_view text);

bool is_utf8(std::string_view text);
bool starts_with(std::span<const std::byte> data, std::string_view prefix);

// "[3072, 64]"; "?" for negative sizes.
std::string shape_string(const std::vector<int64_t>& shape);

template <class T>
T load_le(const std::byte* at) {
  static_assert(std::is_integral_v<T>);
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

inline std::string_view as_text(std::span<const std::byte> data) {
  return {reinterpret_cast<const char*>(data.data()), data.size()};
}

// Product of non-negative sizes; nullopt if it does not fit. A zero size makes it zero.
std::optional<int64_t> checked_numel(const std::vector<int64_t>& shape);

// Row-major strides in elements. Only for shapes whose checked_numel is known.
std::vector<int64_t> contiguous_strides(const std::vector<int64_t>& shape);

}  // namespace jitflux
