// A TorchScript archive.
#include <algorithm>

#include "support/fuzz.h"
#include "weights/reader_util.h"
#include "weights/torchscript_reader.h"
#include "weights/zip_reader.h"

using namespace jitflux;
using namespace jitflux::fuzz;

namespace {

std::string open_and_check(Bytes bytes, bool verify) {
  return outcome(
      {error_code::kCorruptFile, error_code::kUnsafeFile, error_code::kUnsupportedFormat}, [&] {
        check_tensors(*open_torchscript(InputFile("file", bytes), {.verify = verify}), bytes);
      });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const Bytes bytes = as_bytes(data, size);
  const std::string first = open_and_check(bytes, false);
  if (size % 4 == 0) {
    const Moved moved(bytes, 1 + size % 7);
    expect(open_and_check(moved.bytes(), false) == first, "the place in memory does not matter");
  }
  if (first.empty()) {
    open_and_check(bytes, true);
    check_written(*open_torchscript(InputFile("file", bytes), {}));
  }
  return 0;
}

// Mostly changes, adds or drops one record and writes the archive anew: libFuzzer alone hardly ever
// leaves an archive whose sizes agree.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  Random random(seed);
  if (random.below(8) == 0) return LLVMFuzzerMutate(data, size, max_size);
  std::vector<Record> records;
  try {
    const InputFile file("file", as_bytes(data, size));
    const ZipReader archive(file);
    for (const ZipRecord& record : archive.records()) {
      if (record.encrypted || record.method != 0) continue;
      records.push_back({std::string(record.name), std::string(as_text(archive.read(record)))});
    }
  } catch (const Error&) {
  }
  if (records.empty()) return LLVMFuzzerMutate(data, size, max_size);
  const uint32_t choice = random.below(16);
  const auto pickle = std::find_if(records.begin(), records.end(), [](const Record& record) {
    return record.name.ends_with("data.pkl");
  });
  Record& record = choice < 12 && pickle != records.end()
                       ? *pickle
                       : records[random.below(static_cast<uint32_t>(records.size()))];
  if (choice < 14) {
    record.contents = mutate(record.contents, std::min<size_t>(max_size / 2, 4096));
  } else if (choice == 14) {
    record.name = mutate(record.name, 64);
  } else {
    records.erase(records.begin() + (&record - records.data()));
  }
  const std::string out = zip(records);
  if (out.size() > max_size) return LLVMFuzzerMutate(data, size, max_size);
  return give(out, data, max_size);
}
