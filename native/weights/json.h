// A pull reader for the JSON of weight files (safetensors headers and shard indices). It builds no
// tree, so that a hostile header of 100 MB costs no more memory than what the caller keeps.
// Strict RFC 8259; strings must be UTF-8.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/job.h"

namespace jitflux {

class JsonReader {
 public:
  // `path` and `what` word the errors: "<path>: invalid <what> at byte 17 (...)".
  // Every method throws Error: kCorruptFile for bad JSON or a value of another type than asked
  // for, kUnsafeFile for nesting beyond 32 levels, kAborted if `job` was.
  JsonReader(std::string_view text, std::string path, std::string what, Job job = {});

  // begin_object(); while (next_key(&key)) { read or skip exactly one value }
  void begin_object();
  bool next_key(std::string* key);
  // begin_array(); while (next_item()) { read or skip exactly one value }
  void begin_array();
  bool next_item();

  bool next_is(char c);  // whether the next value begins so: '{', '"', ...
  std::string read_string();
  int64_t read_size();  // a non-negative integer that fits int64
  void skip();          // any value, without recursion
  void finish();        // only white space (or the padding of safetensors) may follow

 private:
  struct Level {
    bool object;
    bool first;
  };

  [[noreturn]] void invalid(const char* why) const;
  char peek();  // the next character that is not white space; invalid at the end
  void expect(char c);
  void begin(bool object);
  bool next(bool object);
  void skip_scalar_or_begin();
  void skip_number();
  uint32_t read_hex4();

  std::string_view text_;
  size_t at_ = 0;
  std::string path_;
  std::string what_;
  Job job_;
  std::vector<Level> levels_;
};

}  // namespace jitflux
