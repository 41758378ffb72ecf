#include "weights/json.h"

#include <utility>

#include "weights/reader_util.h"

namespace jitflux {
namespace {

constexpr size_t kMaxDepth = 32;

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

void append_utf8(uint32_t code, std::string* out) {
  const auto put = [out](uint32_t byte) { out->push_back(static_cast<char>(byte)); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | (code >> 6));
    put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | (code >> 12));
    put(0x80 | ((code >> 6) & 0x3F));
    put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | (code >> 18));
    put(0x80 | ((code >> 12) & 0x3F));
    put(0x80 | ((code >> 6) & 0x3F));
    put(0x80 | (code & 0x3F));
  }
}

}  // namespace

JsonReader::JsonReader(std::string_view text, std::string path, std::string what, Job job)
    : text_(text), path_(std::move(path)), what_(std::move(what)), job_(std::move(job)) {}

void JsonReader::invalid(const char* why) const {
  fail(error_code::kCorruptFile, path_,
       "invalid " + what_ + " at byte " + std::to_string(at_) + " (" + why + ")");
}

char JsonReader::peek() {
  while (at_ < text_.size() && is_space(text_[at_])) ++at_;
  if (at_ == text_.size()) invalid("unexpected end");
  return text_[at_];
}

void JsonReader::expect(char c) {
  if (peek() != c) {
    const char why[] = {'e', 'x', 'p', 'e', 'c', 't', 'e', 'd', ' ', c, '\0'};
    invalid(why);
  }
  ++at_;
}

void JsonReader::begin(bool object) {
  expect(object ? '{' : '[');
  if (levels_.size() == kMaxDepth) {
    fail(error_code::kUnsafeFile, path_, what_ + " is nested too deeply");
  }
  levels_.push_back({object, true});
}

void JsonReader::begin_object() { begin(true); }
void JsonReader::begin_array() { begin(false); }

bool JsonReader::next(bool object) {
  job_.checkpoint();
  if (levels_.empty() || levels_.back().object != object) invalid("misplaced value");
  Level& level = levels_.back();
  if (peek() == (object ? '}' : ']')) {
    ++at_;
    levels_.pop_back();
    return false;
  }
  if (!level.first) {
    expect(',');
    if (peek() == (object ? '}' : ']')) invalid("trailing comma");
  }
  level.first = false;
  return true;
}

bool JsonReader::next_key(std::string* key) {
  if (!next(true)) return false;
  *key = read_string();
  expect(':');
  return true;
}

bool JsonReader::next_item() { return next(false); }

uint32_t JsonReader::read_hex4() {
  if (text_.size() - at_ < 4) invalid("unexpected end");
  uint32_t value = 0;
  for (int i = 0; i < 4; ++i) {
    const char c = text_[at_++];
    value <<= 4;
    if (is_digit(c)) {
      value |= static_cast<uint32_t>(c - '0');
    } else if (c >= 'a' && c <= 'f') {
      value |= static_cast<uint32_t>(c - 'a' + 10);
    } else if (c >= 'A' && c <= 'F') {
      value |= static_cast<uint32_t>(c - 'A' + 10);
    } else {
      invalid("bad \\u escape");
    }
  }
  return value;
}

bool JsonReader::next_is(char c) { return peek() == c; }

std::string JsonReader::read_string() {
  expect('"');
  std::string out;
  for (;;) {
    if (at_ == text_.size()) invalid("unterminated string");
    const char c = text_[at_++];
    if (c == '"') break;
    if (static_cast<unsigned char>(c) < 0x20) invalid("control character in a string");
    if (c != '\\') {
      out.push_back(c);
      continue;
    }
    if (at_ == text_.size()) invalid("unterminated string");
    switch (text_[at_++]) {
      case '"':
        out.push_back('"');
        break;
      case '\\':
        out.push_back('\\');
        break;
      case '/':
        out.push_back('/');
        break;
      case 'b':
        out.push_back('\b');
        break;
      case 'f':
        out.push_back('\f');
        break;
      case 'n':
        out.push_back('\n');
        break;
      case 'r':
        out.push_back('\r');
        break;
      case 't':
        out.push_back('\t');
        break;
      case 'u': {
        uint32_t code = read_hex4();
        if (code >= 0xD800 && code < 0xDC00) {
          if (!text_.substr(at_).starts_with("\\u")) invalid("lone surrogate");
          at_ += 2;
          const uint32_t low = read_hex4();
          if (low < 0xDC00 || low > 0xDFFF) invalid("lone surrogate");
          code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
        } else if (code >= 0xDC00 && code < 0xE000) {
          invalid("lone surrogate");
        }
        append_utf8(code, &out);
        break;
      }
      default:
        invalid("bad escape");
    }
  }
  if (!is_utf8(out)) invalid("string is not UTF-8");
  return out;
}

int64_t JsonReader::read_size() {
  if (!is_digit(peek())) invalid("expected a non-negative integer");
  const size_t start = at_;
  int64_t value = 0;
  for (; at_ < text_.size() && is_digit(text_[at_]); ++at_) {
    if (__builtin_mul_overflow(value, int64_t{10}, &value) ||
        __builtin_add_overflow(value, int64_t{text_[at_] - '0'}, &value)) {
      invalid("integer out of range");
    }
  }
  if (text_[start] == '0' && at_ - start > 1) invalid("leading zero");
  if (at_ < text_.size() && (text_[at_] == '.' || text_[at_] == 'e' || text_[at_] == 'E')) {
    invalid("expected an integer");
  }
  return value;
}

void JsonReader::skip_number() {
  const auto digits = [this] {
    const size_t start = at_;
    while (at_ < text_.size() && is_digit(text_[at_])) ++at_;
    if (at_ == start) invalid("bad number");
    return at_ - start;
  };
  if (text_[at_] == '-') ++at_;
  const size_t start = at_;
  if (digits() > 1 && text_[start] == '0') invalid("leading zero");
  if (at_ < text_.size() && text_[at_] == '.') {
    ++at_;
    digits();
  }
  if (at_ < text_.size() && (text_[at_] == 'e' || text_[at_] == 'E')) {
    ++at_;
    if (at_ < text_.size() && (text_[at_] == '+' || text_[at_] == '-')) ++at_;
    digits();
  }
}

void JsonReader::skip_scalar_or_begin() {
  const char c = peek();
  if (c == '{' || c == '[') {
    begin(c == '{');
  } else if (c == '"') {
    read_string();
  } else if (c == '-' || is_digit(c)) {
    skip_number();
  } else {
    for (const std::string_view literal : {"true", "false", "null"}) {
      if (text_.substr(at_).starts_with(literal)) {
        at_ += literal.size();
        return;
      }
    }
    invalid("expected a value");
  }
}

void JsonReader::skip() {
  const size_t outer = levels_.size();
  std::string key;
  skip_scalar_or_begin();
  while (levels_.size() > outer) {
    if (levels_.back().object ? next_key(&key) : next_item()) skip_scalar_or_begin();
  }
}

void JsonReader::finish() {
  while (at_ < text_.size() && is_space(text_[at_])) ++at_;
  if (at_ != text_.size() || !levels_.empty()) invalid("unexpected text after the value");
}

}  // namespace jitflux
