#include "weights/torchscript_reader.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "weights/pickle_reader.h"
#include "weights/reader_util.h"
#include "weights/zip_reader.h"

namespace jitflux {
namespace {

// A module that names one subtree many times makes a small pickle look large. Without that, a byte
// of the pickle is visited once.
constexpr size_t kMaxVisits = size_t{4} << 20;
constexpr size_t kMaxVisitsPerByte = 16;
// Tensors may share storages (tied weights), but a copy of them all must stay near the file's size.
constexpr uint64_t kMaxSharing = 64;
constexpr size_t kMaxIntListLength = 1024;
constexpr size_t kMaxUnsupportedShown = 20;

struct StorageType {
  std::string_view name;
  WeightDType dtype;
};

constexpr std::array kStorageTypes = {
    StorageType{"FloatStorage", WeightDType::kFloat32},
    StorageType{"BFloat16Storage", WeightDType::kBFloat16},
    StorageType{"HalfStorage", WeightDType::kFloat16},
    StorageType{"DoubleStorage", WeightDType::kFloat64},
    StorageType{"LongStorage", WeightDType::kInt64},
    StorageType{"IntStorage", WeightDType::kInt32},
    StorageType{"ShortStorage", WeightDType::kInt16},
    StorageType{"CharStorage", WeightDType::kInt8},
    StorageType{"ByteStorage", WeightDType::kUInt8},
    StorageType{"BoolStorage", WeightDType::kBool},
};

std::optional<WeightDType> dtype_of_storage(std::string_view name) {
  for (const StorageType& type : kStorageTypes) {
    if (type.name == name) return type.dtype;
  }
  return std::nullopt;
}

class TorchScriptFile final : public WeightFile {
 public:
  TorchScriptFile(InputFile file, const OpenOptions& options) : file_(std::move(file)) {
    path_ = file_.path();
    may_map_ = options.map;
    const ZipReader zip(file_);
    zip_ = &zip;
    find_root();
    check_byte_order();
    if (options.verify) zip.verify(options.job);
    const std::vector<std::byte> pickle = read_small("data.pkl");
    const PickleTree tree = read_pickle(pickle, path_, options.job);
    collect(tree, std::min(kMaxVisits, kMaxVisitsPerByte * pickle.size()), options.job);
    zip_ = nullptr;
    if (!unsupported_.empty()) report_unsupported();
    if (total_bytes() / kMaxSharing > file_.size()) {
      fail(error_code::kUnsafeFile, path_, "its tensors share storages beyond reason");
    }
  }

  const char* format() const override { return "torchscript"; }
  std::vector<const InputFile*> inputs() const override { return {&file_}; }

 private:
  struct Visit {
    PickleRef ref;
    size_t next = 0;         // position in the value's items
    size_t path_length = 0;  // of the value's own name
  };

  bool has(const std::string& name) const { return zip_->find(root_ + "/" + name) != nullptr; }

  void find_root() {
    constexpr std::string_view kPickle = "/data.pkl";
    for (const ZipRecord& record : zip_->records()) {
      if (!record.name.ends_with(kPickle)) continue;
      const std::string_view root = record.name.substr(0, record.name.size() - kPickle.size());
      if (root.find('/') != root.npos) continue;
      if (!root_.empty()) {
        fail(error_code::kUnsafeFile, path_, "the archive holds more than one data.pkl");
      }
      if (root.size() > kMaxNameLength) {
        fail(error_code::kUnsafeFile, path_, "the archive has an absurdly long root folder");
      }
      root_ = root;
    }
    if (root_.empty()) {
      fail(error_code::kUnsupportedFormat, path_,
           "a ZIP archive without data.pkl is not a TorchScript archive");
    }
    const bool has_code = has_folder("code/");
    if (!has("constants.pkl") || !(has_code || has("version") || has(".data/version"))) {
      fail(error_code::kUnsupportedFormat, path_,
           "this is a pickle written by torch.save, not a TorchScript archive; save the weights as "
           "safetensors, or the module with torch.jit.save (see `jit-flux convert`)");
    }
  }

  // A record that is there and that no archive has large.
  std::vector<std::byte> read_small(const std::string& name) const {
    const ZipRecord& record = *zip_->find(root_ + "/" + name);
    if (record.size > kMaxPickleSize) {
      fail(error_code::kUnsafeFile, path_, name + " is larger than any module needs");
    }
    return zip_->read(record);
  }

  bool has_folder(std::string_view folder) const {
    const std::string prefix = root_ + "/" + std::string(folder);
    for (const ZipRecord& record : zip_->records()) {
      if (record.name.starts_with(prefix)) return true;
    }
    return false;
  }

  void check_byte_order() const {
    if (!has("byteorder")) return;  // written since PyTorch 2.1
    const std::vector<std::byte> text = read_small("byteorder");
    const std::string_view order = as_text(text);
    if (order == "little") return;
    if (order == "big") {
      fail(error_code::kUnsupportedFormat, path_, "the archive is big-endian");
    }
    fail(error_code::kCorruptFile, path_, "the archive has an unknown byte order");
  }

  // Depth-first over the attributes, without recursion. Sharing turns the tree into a graph (and a
  // hostile file may close a cycle), hence the bounds on depth and visits.
  void collect(const PickleTree& tree, size_t max_visits, const Job& job) {
    std::vector<Visit> stack;
    std::string name;
    size_t visits = 0;
    const auto enter = [&](PickleRef ref) {
      job.checkpoint();
      if (++visits > max_visits) {
        fail(error_code::kUnsafeFile, path_, "data.pkl shares values beyond reason");
      }
      const PickleValue& value = tree[ref];
      switch (value.kind) {
        case PickleKind::kTensor:
          add_tensor(tree, value, name);
          break;
        case PickleKind::kObject:
        case PickleKind::kDict:
          push(&stack, {ref, 0, name.size()});
          break;
        case PickleKind::kTuple:
        case PickleKind::kList:
          add_int_list(tree, value, name);
          push(&stack, {ref, 0, name.size()});
          break;
        default:
          break;
      }
    };
    enter(tree.root);
    while (!stack.empty()) {
      Visit& visit = stack.back();
      const PickleValue& value = tree[visit.ref];
      name.resize(visit.path_length);
      if (visit.next >= value.items.size()) {
        stack.pop_back();
        continue;
      }
      const size_t index = visit.next;
      if (value.kind == PickleKind::kDict) {
        visit.next += 2;
        const PickleValue& key = tree[value.items[index]];
        if (key.kind == PickleKind::kString) {
          append_name(&name, key.text);
        } else if (key.kind == PickleKind::kInt) {
          append_name(&name, std::to_string(key.number));
        } else {
          continue;  // a key that cannot name a parameter
        }
        enter(value.items[index + 1]);
      } else {
        visit.next += 1;
        if (value.kind != PickleKind::kObject) append_name(&name, std::to_string(index));
        enter(value.items[index]);
      }
    }
  }

  void push(std::vector<Visit>* stack, const Visit& visit) const {
    // An object and its state are one level of nesting, but two of this walk.
    if (stack->size() >= 2 * kMaxPickleDepth) {
      fail(error_code::kUnsafeFile, path_, "data.pkl is nested too deeply");
    }
    stack->push_back(visit);
  }

  void append_name(std::string* name, std::string_view part) const {
    if (name->size() + part.size() + 1 > kMaxNameLength) {
      fail(error_code::kUnsafeFile, path_, "data.pkl holds an absurdly long attribute path");
    }
    if (!name->empty()) name->push_back('.');
    name->append(part);
  }

  void add_int_list(const PickleTree& tree, const PickleValue& value, const std::string& name) {
    if (name.empty() || value.items.empty() || value.items.size() > kMaxIntListLength) return;
    std::vector<int64_t> numbers;
    for (const PickleRef item : value.items) {
      if (tree[item].kind != PickleKind::kInt) return;
      numbers.push_back(tree[item].number);
    }
    if (int_lists_.size() < kMaxTensors) int_lists_.emplace(name, std::move(numbers));
  }

  void add_tensor(const PickleTree& tree, const PickleValue& value, const std::string& attribute) {
    // A module whose __getstate__ returns one bare tensor leaves it without a name.
    const std::string& name = attribute.empty() ? kNameless : attribute;
    if (tensors_.size() >= kMaxTensors) {
      fail(error_code::kUnsafeFile, path_, "too many tensors");
    }
    switch (value.form) {
      case PickleTensorForm::kQuantized:
        return add_unsupported(name, "quantised");
      case PickleTensorForm::kSparse:
        return add_unsupported(name, "sparse");
      case PickleTensorForm::kLazyNegation:
        return add_unsupported(name, "with a pending conjugation or negation");
      case PickleTensorForm::kPlain:
        break;
    }
    const PickleValue& storage = tree[value.items[0]];
    const std::string_view type = tree[storage.items[0]].text.substr(sizeof("torch\n") - 1);
    const std::optional<WeightDType> dtype = dtype_of_storage(type);
    if (!dtype) return add_unsupported(name, std::string(type.substr(0, 64)));

    WeightTensor tensor;
    tensor.name = name;
    tensor.dtype = *dtype;
    const std::vector<PickleRef>& sizes = tree[value.items[1]].items;
    const std::vector<PickleRef>& strides = tree[value.items[2]].items;
    if (sizes.size() != strides.size()) {
      fail(error_code::kCorruptFile, path_,
           "tensor " + in_quotes(name) + " has a shape unlike its strides");
    }
    for (const PickleRef item : sizes) {
      tensor.shape.push_back(tree[item].number);
    }
    for (const PickleRef item : strides) {
      tensor.strides.push_back(tree[item].number);
    }
    const size_t size = element_size(*dtype);
    const uint64_t begin = storage_offset(storage, size, name);
    check_extent(tensor, value.number, storage.number);
    // The stride of a dimension of size one is never used and may be anything.
    const std::vector<int64_t> plain = contiguous_strides(tensor.shape);
    for (size_t i = 0; i < plain.size(); ++i) {
      if (tensor.shape[i] == 1 || tensor.numel() == 0) tensor.strides[i] = plain[i];
    }
    tensor.file = &file_;
    if (tensor.numel() != 0) tensor.offset = begin + static_cast<uint64_t>(value.number) * size;
    if (!index_.emplace(name, tensors_.size()).second) {
      fail(error_code::kCorruptFile, path_, "two tensors are named " + in_quotes(name));
    }
    tensors_.push_back(std::move(tensor));
  }

  void add_unsupported(const std::string& name, const std::string& what) {
    if (unsupported_.size() <= kMaxUnsupportedShown) {
      unsupported_.push_back(in_quotes(name) + " (" + what + ")");
    }
  }

  [[noreturn]] void report_unsupported() const {
    std::string list;
    for (size_t i = 0; i < unsupported_.size(); ++i) {
      if (i > 0) list += ", ";
      list += i == kMaxUnsupportedShown ? "..." : unsupported_[i];
    }
    fail(error_code::kUnsupportedFormat, path_, "tensors of an unsupported type: " + list);
  }

  // Where the record of a storage begins. It may be longer than the storage.
  uint64_t storage_offset(const PickleValue& storage, size_t size, const std::string& name) const {
    const ZipRecord* record = zip_->find(root_ + "/data/" + std::string(storage.text));
    if (record == nullptr) {
      if (storage.number == 0) return 0;
      fail(error_code::kCorruptFile, path_,
           "tensor " + in_quotes(name) + " refers to the record " +
               in_quotes("data/" + std::string(storage.text)) + ", which is missing");
    }
    zip_->expect_stored(*record);
    const auto count = static_cast<uint64_t>(storage.number);
    if (count > record->size / size) {
      fail(error_code::kCorruptFile, path_,
           "record " + in_quotes(record->name) + " has " + std::to_string(record->size) +
               " bytes, but the storage of tensor " + in_quotes(name) + " has " +
               std::to_string(count) + " elements of " + std::to_string(size) + " bytes");
    }
    return record->data_offset;
  }

  void check_extent(const WeightTensor& tensor, int64_t offset, int64_t storage_count) const {
    const auto corrupt = [&](const std::string& what) {
      fail(error_code::kCorruptFile, path_, "tensor " + in_quotes(tensor.name) + " " + what);
    };
    if (offset < 0) corrupt("begins before its storage");
    for (size_t i = 0; i < tensor.shape.size(); ++i) {
      if (tensor.shape[i] < 0 || tensor.strides[i] < 0) corrupt("has a negative size or stride");
    }
    const std::optional<int64_t> numel = checked_numel(tensor.shape);
    if (numel == 0) return;
    if (!numel || *numel > storage_count) {
      fail(error_code::kUnsafeFile, path_,
           "tensor " + in_quotes(tensor.name) + " " + shape_string(tensor.shape) +
               " has more elements than its storage (" + std::to_string(storage_count) + ")");
    }
    int64_t last = offset;
    for (size_t i = 0; i < tensor.shape.size(); ++i) {
      int64_t reach = 0;
      if (__builtin_mul_overflow(tensor.shape[i] - 1, tensor.strides[i], &reach) ||
          __builtin_add_overflow(last, reach, &last)) {
        corrupt("reaches beyond its storage");
      }
    }
    if (last >= storage_count) corrupt("reaches beyond its storage");
  }

  static inline const std::string kNameless = "state";

  InputFile file_;
  const ZipReader* zip_ = nullptr;  // only while reading
  std::string root_;
  std::vector<std::string> unsupported_;
};

}  // namespace

std::shared_ptr<const WeightFile> open_torchscript(InputFile file, const OpenOptions& options) {
  return std::make_shared<TorchScriptFile>(std::move(file), options);
}

}  // namespace jitflux
