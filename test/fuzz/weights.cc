// Any file, as `jit-flux inspect` reads it: told by its content, described, its memory asked for.
#include "describe/flux_parameters.h"
#include "describe/parts.h"
#include "support/fuzz.h"
#include "weights/reader_util.h"

using namespace jitflux;
using namespace jitflux::fuzz;

namespace {

const Folder& folder() {
  static const Folder empty;
  return empty;
}

std::string open_and_check(Bytes bytes) {
  return outcome({error_code::kCorruptFile, error_code::kUnsafeFile, error_code::kUnsupportedFormat,
                  error_code::kFileNotFound},
                 [&] {
                   // An index finds no shards here.
                   const auto file = WeightFile::open(InputFile(folder().path() + "/file", bytes));
                   check_tensors(*file, file->file_bytes() > 0 ? bytes : Bytes{});
                   const PartDescription found = describe_part(file, {});
                   if (found.problem)
                     check_error(*found.problem,
                                 {error_code::kWeightsMismatch, error_code::kUnsupportedFormat});
                   check_written(*file);
                 });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const Bytes bytes = as_bytes(data, size);
  const std::string first = open_and_check(bytes);
  if (first.empty()) expect(open_and_check(bytes) == first, "the same again");
  return 0;
}
