// The directory of a ZIP archive.
#include <algorithm>

#include "support/fuzz.h"
#include "weights/reader_util.h"
#include "weights/zip_reader.h"

using namespace jitflux;
using namespace jitflux::fuzz;

namespace {

std::string open_and_check(Bytes bytes) {
  return outcome({error_code::kCorruptFile, error_code::kUnsafeFile}, [&] {
    const InputFile file("file", bytes);
    const ZipReader zip(file);
    std::vector<std::pair<uint64_t, uint64_t>> extents;
    for (const ZipRecord& record : zip.records()) {
      expect(zip.find(record.name) == &record, "a record is found by its name");
      if (record.encrypted || record.method != 0) continue;
      const std::vector<std::byte> contents = zip.read(record);
      expect(contents.size() == record.size, "a record is as long as it says");
      if (contents.empty()) continue;
      expect(record.data_offset <= bytes.size() && record.size <= bytes.size() - record.data_offset,
             "a record lies inside the file");
      extents.emplace_back(record.data_offset, record.data_offset + record.size);
    }
    std::sort(extents.begin(), extents.end());
    for (size_t i = 1; i < extents.size(); ++i) {
      expect(extents[i - 1].second <= extents[i].first, "records do not overlap");
    }
    zip.verify({});
  });
}

// The stored records of an archive, none if it is refused.
std::vector<Record> records_of(Bytes bytes) {
  std::vector<Record> records;
  try {
    const InputFile file("file", bytes);
    const ZipReader zip(file);
    for (const ZipRecord& record : zip.records()) {
      if (record.encrypted || record.method != 0) return {};
      records.push_back({std::string(record.name), std::string(as_text(zip.read(record)))});
    }
  } catch (const Error&) {
    return {};
  }
  return records;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const Bytes bytes = as_bytes(data, size);
  const std::string first = open_and_check(bytes);
  if (size % 4 == 0) {
    const Moved moved(bytes, 1 + size % 7);
    expect(open_and_check(moved.bytes()) == first, "the place in memory does not matter");
  }
  const std::vector<Record> records = records_of(bytes);
  if (!records.empty()) {
    const std::string written = zip(records);
    expect(open_and_check(as_bytes(written)).empty(), "what is written is accepted");
    const std::vector<Record> again = records_of(as_bytes(written));
    expect(again.size() == records.size(), "as many records are read back");
    for (size_t i = 0; i < records.size(); ++i) {
      expect(again[i].name == records[i].name && again[i].contents == records[i].contents,
             "what is written is read back");
    }
  }
  return 0;
}
