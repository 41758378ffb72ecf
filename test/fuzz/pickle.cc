// The data.pkl of an archive, without the archive.
#include "support/fuzz.h"
#include "weights/pickle_reader.h"
#include "weights/reader_util.h"

using namespace jitflux;
using namespace jitflux::fuzz;

namespace {

void check_tree(const PickleTree& tree, Bytes bytes) {
  const auto inside = [&](std::string_view text) {
    const auto* begin = reinterpret_cast<const std::byte*>(text.data());
    return text.empty() ||
           (begin >= bytes.data() && begin + text.size() <= bytes.data() + bytes.size());
  };
  expect(tree.root < tree.values.size(), "the root is a value");
  // Five constants, at most one value for each byte.
  expect(tree.values.size() <= bytes.size() + 5, "no more values than bytes");
  uint64_t items = 0;
  for (const PickleValue& value : tree.values) {
    expect(value.depth <= kMaxPickleDepth, "the depth is limited");
    expect(inside(value.text), "text lies in the pickle");
    for (const PickleRef item : value.items) {
      expect(item < tree.values.size(), "items are values");
    }
    items += value.items.size();
    if (value.kind == PickleKind::kTensor && value.form == PickleTensorForm::kPlain) {
      expect(value.items.size() == 3, "a tensor has storage, sizes and strides");
      const PickleValue& storage = tree[value.items[0]];
      expect(
          storage.kind == PickleKind::kStorage && storage.number >= 0 && storage.items.size() == 1,
          "a tensor has a storage");
      expect(tree[storage.items[0]].global == PickleGlobal::kStorageType, "a storage has a type");
      for (const size_t i : {1, 2}) {
        expect(tree[value.items[i]].kind == PickleKind::kTuple &&
                   tree[value.items[i]].items.size() <= kMaxRank,
               "sizes and strides are short tuples");
      }
    }
    if (value.kind == PickleKind::kDict) expect(value.items.size() % 2 == 0, "keys have values");
  }
  // A tensor has three items, a storage one; the others come from the stack.
  expect(items <= 4 * bytes.size() + 64, "no more items than bytes");
}

std::string dump(const PickleTree& tree) {
  std::string out;
  for (const PickleValue& value : tree.values) {
    out += std::to_string(static_cast<int>(value.kind)) + "/" + std::to_string(value.number) + "/" +
           std::string(value.text) + "/";
    for (const PickleRef item : value.items) out += std::to_string(item) + ",";
  }
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const Bytes bytes = as_bytes(data, size);
  const std::string path = "file";
  std::string first;
  const auto codes = {error_code::kCorruptFile, error_code::kUnsafeFile};
  const std::string refused = outcome(codes, [&] {
    const PickleTree tree = read_pickle(bytes, path);
    check_tree(tree, bytes);
    first = dump(tree);
  });
  if (refused.empty() || size % 8 == 0) {
    const Moved moved(bytes, 1 + size % 7);
    const std::string again = outcome(
        codes, [&] { expect(dump(read_pickle(moved.bytes(), path)) == first, "the same tree"); });
    expect(again == refused, "the place in memory does not matter");
  }
  return 0;
}
