// Reads the data.pkl of a TorchScript archive into a tree of plain values. Nothing is imported,
// called or constructed: globals are compared with a fixed list and their calls become values.
//
// Format: Python's pickle protocol 2, restricted to the opcodes that torch::jit::Pickler writes
// (torch/csrc/jit/serialization/pickler.cpp) and that its Unpickler accepts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/job.h"

namespace jitflux {

// Nesting of values; real modules stay below 20.
inline constexpr size_t kMaxPickleDepth = 64;
// A FLUX.1 archive has a data.pkl of about 100 KB and 15,000 values.
inline constexpr size_t kMaxPickleSize = size_t{64} << 20;

enum class PickleKind : uint8_t {
  kNone,
  kBool,     // number
  kInt,      // number
  kString,   // text
  kTuple,    // items
  kList,     // items
  kDict,     // items: key, value, key, value, ...
  kObject,   // a __torch__ class instance; items: nothing or its state
  kTensor,   // number: storage offset; items: storage, sizes (tuple), strides (tuple)
  kStorage,  // number: element count; text: key; items: type (a global "torch\nFloatStorage")
  kGlobal,   // text: "module\nname"
  kOpaque,   // a value that no tensor name depends on: float, complex, device, enum member
};

enum class PickleGlobal : uint8_t {
  kNotGlobal,
  kClass,
  kRebuildTensor,
  kRebuildParameter,
  kRebuildQuantized,
  kRebuildSparse,
  kStorageType,
  kOrderedDict,
  kTypedList,
  kRestoreTypeTag,
  kOpaqueCall,  // torch.device, complex
  kOpaqueName,  // quantisation schemes
};

// Why a kTensor cannot be used as plain strided data.
enum class PickleTensorForm : uint8_t { kPlain, kQuantized, kSparse, kLazyNegation };

using PickleRef = uint32_t;

struct PickleValue {
  PickleKind kind = PickleKind::kNone;
  PickleGlobal global = PickleGlobal::kNotGlobal;
  PickleTensorForm form = PickleTensorForm::kPlain;
  uint32_t depth = 1;  // 1 + that of the deepest item when it was added
  int64_t number = 0;
  std::string_view text;  // lies in the pickle
  std::vector<PickleRef> items;
};

// Values refer to each other by index, so sharing and even cycles are harmless here and destruction
// does not recurse. Whoever walks the tree must bound depth and visits.
struct PickleTree {
  std::vector<PickleValue> values;
  PickleRef root = 0;

  const PickleValue& operator[](PickleRef ref) const { return values[ref]; }
};

// `pickle` must outlive the tree; `path` words the errors. Throws Error:
//   kCorruptFile  truncated or malformed
//   kUnsafeFile   a global or opcode that no TorchScript archive holds, nesting beyond
//                 kMaxPickleDepth, a size or object count beyond reason
//   kAborted      `job` was
PickleTree read_pickle(std::span<const std::byte> pickle, const std::string& path,
                       const Job& job = {});

}  // namespace jitflux
