// One .safetensors file.
#include "support/fuzz.h"
#include "weights/reader_util.h"
#include "weights/safetensors_reader.h"

using namespace jitflux;
using namespace jitflux::fuzz;

namespace {

std::string open_and_check(Bytes bytes) {
  return outcome(
      {error_code::kCorruptFile, error_code::kUnsafeFile, error_code::kUnsupportedFormat}, [&] {
        const auto file = open_safetensors(InputFile("file", bytes), {.metadata = true});
        check_tensors(*file, bytes);
        for (const auto& [name, text] : file->metadata()) {
          expect(is_utf8(name) && is_utf8(text), "metadata is UTF-8");
        }
      });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const Bytes bytes = as_bytes(data, size);
  const std::string first = open_and_check(bytes);
  if (size % 4 == 0) {
    const Moved moved(bytes, 1 + size % 7);
    expect(open_and_check(moved.bytes()) == first, "the place in memory does not matter");
  }
  if (first.empty()) check_written(*open_safetensors(InputFile("file", bytes), {}));
  return 0;
}

// Mostly changes the header's text and says its new length; libFuzzer alone hardly ever does both.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  Random random(seed);
  const auto header = size >= 8 ? load_le<uint64_t>(reinterpret_cast<std::byte*>(data)) : 0;
  if (size < 8 || header > size - 8 || max_size < 16 || random.below(8) == 0) {
    return LLVMFuzzerMutate(data, size, max_size);
  }
  const std::string_view all(reinterpret_cast<const char*>(data), size);
  std::string text(all.substr(8, header));
  std::string tensors(all.substr(8 + header));
  if (random.below(16) == 0) {
    tensors.resize(random.below(64));
  } else {
    text = mutate(text, max_size - 8);
  }
  std::string out;
  for (int i = 0; i < 8; ++i) out.push_back(static_cast<char>(text.size() >> (8 * i)));
  return give(out + text + tensors, data, max_size);
}
