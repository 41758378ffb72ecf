// A *.safetensors.index.json beside two shards. The input is the index; shards named in it that
// are absent are refused.
#include "support/fuzz.h"
#include "weights/safetensors_reader.h"

using namespace jitflux;
using namespace jitflux::fuzz;

namespace {

std::string shard(const std::string& header, size_t bytes) {
  std::string out;
  for (int i = 0; i < 8; ++i) out.push_back(static_cast<char>(header.size() >> (8 * i)));
  return out + header + std::string(bytes, 'x');
}

const Folder& shards() {
  static Folder folder;
  static const bool written = [] {
    folder.write("a.safetensors", shard(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                                        R"("v":{"dtype":"I8","shape":[3],"data_offsets":[8,11]}})",
                                        11));
    folder.write("b.safetensors", shard(R"({"u":{"dtype":"F16","shape":[0,4],)"
                                        R"("data_offsets":[0,0]}})",
                                        0));
    folder.write("c.safetensors", "version https://git-lfs.github.com/spec/v1");
    return true;
  }();
  static_cast<void>(written);
  return folder;
}

std::string open_and_check(Bytes bytes) {
  return outcome({error_code::kCorruptFile, error_code::kUnsafeFile, error_code::kUnsupportedFormat,
                  error_code::kFileNotFound},
                 [&] {
                   const std::string path = shards().path() + "/model.safetensors.index.json";
                   const auto file = open_safetensors_index(InputFile(path, bytes), {});
                   check_tensors(*file, {});
                   expect(file->tensors().size() <= 3, "only tensors of the shards");
                   expect(file->files().front() == path, "the index comes first");
                   check_written(*file);
                 });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const Bytes bytes = as_bytes(data, size);
  const std::string first = open_and_check(bytes);
  if (size % 8 == 0) {
    const Moved moved(bytes, 3);
    expect(open_and_check(moved.bytes()) == first, "the place in memory does not matter");
  }
  return 0;
}
