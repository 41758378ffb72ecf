// A folder of weights: which file is taken, an index with shards of any content. The input is a
// list of files: length of the name, name, length of the content (two bytes), content.
#include "support/fuzz.h"
#include "weights/reader_util.h"

using namespace jitflux;
using namespace jitflux::fuzz;

namespace {

constexpr size_t kMaxFiles = 8;

Folder& folder() {
  static Folder files;
  return files;
}

bool fit(const std::string& name) {
  return !name.empty() && name.find('/') == name.npos && name.find('\0') == name.npos &&
         name != "." && name != "..";
}

std::vector<Record> files_of(Bytes bytes) {
  std::vector<Record> files;
  std::string_view rest = as_text(bytes);
  while (rest.size() > 3 && files.size() < kMaxFiles) {
    const size_t name_length = std::min<size_t>(static_cast<uint8_t>(rest[0]), rest.size() - 3);
    std::string name(rest.substr(1, name_length));
    rest.remove_prefix(1 + name_length);
    const size_t length = static_cast<uint8_t>(rest[0]) | static_cast<uint8_t>(rest[1]) << 8;
    rest.remove_prefix(2);
    files.push_back({std::move(name), std::string(rest.substr(0, length))});
    rest.remove_prefix(std::min(rest.size(), length));
  }
  return files;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  folder().clear();
  for (const Record& file : files_of(as_bytes(data, size))) {
    if (fit(file.name)) folder().write(file.name, file.contents);
  }
  outcome({error_code::kCorruptFile, error_code::kUnsafeFile, error_code::kUnsupportedFormat,
           error_code::kFileNotFound},
          [&] {
            const auto file = WeightFile::open(folder().path());
            check_tensors(*file, {});
            for (const std::string& path : file->files()) {
              expect(path.starts_with(folder().path() + "/"), "nothing outside of the folder");
            }
          });
  return 0;
}

// Changes one name or one content.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  Random random(seed);
  std::vector<Record> files = files_of(as_bytes(data, size));
  if (files.empty() || random.below(8) == 0) return LLVMFuzzerMutate(data, size, max_size);
  Record& file = files[random.below(static_cast<uint32_t>(files.size()))];
  if (random.below(4) == 0) {
    file.name = mutate(file.name, 64);
  } else {
    file.contents = mutate(file.contents, std::min<size_t>(max_size, 2048));
  }
  std::string out;
  for (const Record& each : files) {
    out.push_back(static_cast<char>(each.name.size()));
    out += each.name;
    out.push_back(static_cast<char>(each.contents.size()));
    out.push_back(static_cast<char>(each.contents.size() >> 8));
    out += each.contents;
  }
  return give(out, data, max_size);
}
