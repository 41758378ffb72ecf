#include "weights/reader_util.h"

#include <algorithm>
#include <limits>

namespace jitflux {

void fail(const char* code, const std::string& path, const std::string& reason) {
  throw Error(code, printable_path(path) + ": " + reason, {{"path", path}});
}

void refuse_text(const std::string& path, std::span<const std::byte> bytes) {
  if (starts_with(bytes, "version https://git-lfs")) {
    fail(error_code::kUnsupportedFormat, path,
         "a Git LFS pointer; fetch the file itself with `git lfs pull`");
  }
  constexpr size_t kLooked = 32;
  constexpr size_t kLeast = 8;
  const std::string_view text = as_text(bytes.first(std::min(bytes.size(), kLooked)));
  const bool is_text = text.size() >= kLeast && std::all_of(text.begin(), text.end(), [](char c) {
                         return (c >= ' ' && c <= '~') || c == '\t' || c == '\n' || c == '\r';
                       });
  if (!is_text) return;
  fail(error_code::kUnsupportedFormat, path,
       "a text, not weights (it begins with " + in_quotes(text) +
           "): a failed or unauthorised download?");
}

std::string printable(std::string_view text, size_t most) {
  constexpr char kHex[] = "0123456789abcdef";
  const bool valid = is_utf8(text);
  std::string out;
  size_t i = 0;
  for (; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    // Never cut inside a UTF-8 sequence.
    if (i >= most && !(valid && (byte & 0xC0) == 0x80)) break;
    // 0xC2 0x80..0x9F are the C1 controls, which some terminals obey.
    const bool c1 = valid && byte == 0xC2 && static_cast<unsigned char>(text[i + 1]) < 0xA0;
    if (byte < 0x20 || byte == 0x7F || (byte >= 0x80 && !valid)) {
      out += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
    } else if (c1) {
      const auto control = static_cast<unsigned char>(text[++i]);
      out += {'\\', 'x', kHex[control >> 4], kHex[control & 15]};
    } else {
      out += text[i];
    }
  }
  return i < text.size() ? out + "..." : out;
}

std::string printable_path(std::string_view path) { return printable(path, 4096); }

std::string in_quotes(std::string_view text) { return "'" + printable(text) + "'"; }

bool is_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    if (lead < 0x80) {
      ++i;
      continue;
    }
    const size_t extra = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : 1;
    if (lead < 0xC2 || lead > 0xF4 || text.size() - i <= extra) return false;
    uint32_t code = lead & (0x3Fu >> extra);
    for (size_t k = 1; k <= extra; ++k) {
      const auto byte = static_cast<unsigned char>(text[i + k]);
      if ((byte & 0xC0) != 0x80) return false;
      code = (code << 6) | (byte & 0x3Fu);
    }
    const bool overlong = (extra == 2 && code < 0x800) || (extra == 3 && code < 0x10000);
    if (overlong || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) return false;
    i += extra + 1;
  }
  return true;
}

bool starts_with(std::span<const std::byte> data, std::string_view prefix) {
  return as_text(data).starts_with(prefix);
}

std::string shape_string(const std::vector<int64_t>& shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) out += ", ";
    out += shape[i] < 0 ? "?" : std::to_string(shape[i]);
  }
  return out + "]";
}

std::optional<int64_t> checked_numel(const std::vector<int64_t>& shape) {
  // The zero is looked for first: [2^62, 2^62, 0] is an empty tensor, not an overflow.
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return 0;
  int64_t numel = 1;
  for (const int64_t size : shape) {
    if (size < 0 || __builtin_mul_overflow(numel, size, &numel)) return std::nullopt;
  }
  return numel;
}

std::vector<int64_t> contiguous_strides(const std::vector<int64_t>& shape) {
  std::vector<int64_t> strides(shape.size());
  int64_t step = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    strides[i] = step;
    // Saturates, which only an empty tensor can reach.
    if (__builtin_mul_overflow(step, std::max<int64_t>(shape[i], 1), &step)) {
      step = std::numeric_limits<int64_t>::max();
    }
  }
  return strides;
}

}  // namespace jitflux
