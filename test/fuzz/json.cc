// JsonReader on any text: skipping a value and walking through it agree, both ends at the same
// place; what is_utf8, printable and read_string say of the same bytes.
#include "weights/json.h"

#include "support/fuzz.h"
#include "weights/reader_util.h"

using namespace jitflux;
using namespace jitflux::fuzz;

namespace {

// Reads one value by the calls that a reader of weight files makes.
void walk(JsonReader* json) {
  if (json->next_is('{')) {
    std::string key;
    json->begin_object();
    while (json->next_key(&key)) {
      expect(is_utf8(key), "a key is UTF-8");
      walk(json);
    }
  } else if (json->next_is('[')) {
    json->begin_array();
    while (json->next_item()) walk(json);
  } else if (json->next_is('"')) {
    expect(is_utf8(json->read_string()), "a string is UTF-8");
  } else {
    json->skip();
  }
}

// As shards and tensors are listed: every value is asked for as what it may not be.
void misread(JsonReader* json) {
  std::string key;
  json->begin_object();
  while (json->next_key(&key)) {
    if (json->next_is('[')) {
      json->begin_array();
      while (json->next_item()) {
        expect(json->read_size() >= 0, "a size is not negative");
      }
    } else {
      json->read_string();
    }
  }
  json->finish();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const Bytes bytes = as_bytes(data, size);
  const std::string_view text = as_text(bytes);
  const auto codes = {error_code::kCorruptFile, error_code::kUnsafeFile};
  const auto reader = [&] { return JsonReader(text, "file", "text"); };

  const std::string skipped = outcome(codes, [&] {
    JsonReader json = reader();
    json.skip();
    json.finish();
  });
  const std::string walked = outcome(codes, [&] {
    JsonReader json = reader();
    walk(&json);
    json.finish();
  });
  expect(skipped == walked, "skipping and walking agree");
  outcome(codes, [&] {
    JsonReader json = reader();
    misread(&json);
  });

  const std::string shown = printable(text);
  expect(shown.size() <= 1024, "what is shown is short");
  // check_error says what a message must be.
  check_error(Error(error_code::kCorruptFile, shown), {error_code::kCorruptFile});
  return 0;
}
