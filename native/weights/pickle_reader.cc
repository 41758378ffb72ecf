#include "weights/pickle_reader.h"

#include <algorithm>
#include <array>
#include <utility>

#include "weights/reader_util.h"

namespace jitflux {
namespace {

constexpr size_t kMaxValues = size_t{4} << 20;
constexpr size_t kMaxMarks = 4 * kMaxPickleDepth;  // a tensor in a module opens three
constexpr size_t kMaxGlobalLength = 1024;
constexpr size_t kMaxKeyLength = 256;   // of a storage; really a decimal number
constexpr size_t kMaxTensorFlags = 16;  // really two, conj and neg

enum Opcode : uint8_t {
  kMark = '(',
  kEmptyTuple = ')',
  kStop = '.',
  kBinFloat = 'G',
  kBinInt = 'J',
  kBinInt1 = 'K',
  kBinInt2 = 'M',
  kNone = 'N',
  kBinPersId = 'Q',
  kReduce = 'R',
  kBinUnicode = 'X',
  kEmptyList = ']',
  kAppend = 'a',
  kBuild = 'b',
  kGlobal = 'c',
  kDict = 'd',
  kAppends = 'e',
  kBinGet = 'h',
  kLongBinGet = 'j',
  kList = 'l',
  kBinPut = 'q',
  kLongBinPut = 'r',
  kSetItem = 's',
  kTuple = 't',
  kSetItems = 'u',
  kEmptyDict = '}',
  kProto = 0x80,
  kNewObj = 0x81,
  kTuple1 = 0x85,
  kTuple2 = 0x86,
  kTuple3 = 0x87,
  kNewTrue = 0x88,
  kNewFalse = 0x89,
  kLong1 = 0x8A,
  kShortBinUnicode = 0x8C,
  kBinUnicode8 = 0x8D,
};

struct KnownGlobal {
  std::string_view name;  // "module\nname"
  PickleGlobal kind;
};

constexpr std::array kKnownGlobals = {
    KnownGlobal{"torch._utils\n_rebuild_tensor_v2", PickleGlobal::kRebuildTensor},
    KnownGlobal{"torch._utils\n_rebuild_parameter", PickleGlobal::kRebuildParameter},
    KnownGlobal{"torch._utils\n_rebuild_qtensor", PickleGlobal::kRebuildQuantized},
    KnownGlobal{"torch._utils\n_rebuild_sparse_tensor", PickleGlobal::kRebuildSparse},
    KnownGlobal{"collections\nOrderedDict", PickleGlobal::kOrderedDict},
    KnownGlobal{"torch.jit._pickle\nbuild_intlist", PickleGlobal::kTypedList},
    KnownGlobal{"torch.jit._pickle\nbuild_tensorlist", PickleGlobal::kTypedList},
    KnownGlobal{"torch.jit._pickle\nbuild_doublelist", PickleGlobal::kTypedList},
    KnownGlobal{"torch.jit._pickle\nbuild_boollist", PickleGlobal::kTypedList},
    KnownGlobal{"torch.jit._pickle\nrestore_type_tag", PickleGlobal::kRestoreTypeTag},
    KnownGlobal{"torch\ndevice", PickleGlobal::kOpaqueCall},
    KnownGlobal{"builtins\ncomplex", PickleGlobal::kOpaqueCall},
    KnownGlobal{"torch\nper_tensor_affine", PickleGlobal::kOpaqueName},
    KnownGlobal{"torch\nper_channel_affine", PickleGlobal::kOpaqueName},
    KnownGlobal{"torch\nper_tensor_symmetric", PickleGlobal::kOpaqueName},
    KnownGlobal{"torch\nper_channel_symmetric", PickleGlobal::kOpaqueName},
    KnownGlobal{"torch\nper_channel_affine_float_qparams", PickleGlobal::kOpaqueName},
};

PickleGlobal classify(std::string_view global) {
  for (const KnownGlobal& known : kKnownGlobals) {
    if (known.name == global) return known.kind;
  }
  // Classes defined inside the archive; only their attribute values are of interest.
  if (global.starts_with("__torch__\n") || global.starts_with("__torch__.")) {
    return PickleGlobal::kClass;
  }
  constexpr std::string_view kTorch = "torch\n";
  if (global.starts_with(kTorch) && global.ends_with("Storage")) {
    const std::string_view name = global.substr(kTorch.size());
    const bool plain = std::all_of(name.begin(), name.end(), [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
    });
    if (plain) return PickleGlobal::kStorageType;
  }
  return PickleGlobal::kNotGlobal;
}

class Parser {
 public:
  Parser(std::span<const std::byte> pickle, const std::string& path)
      : pickle_(pickle), path_(path) {}

  PickleTree run(const Job& job) {
    if (pickle_.size() > kMaxPickleSize) unsafe("is larger than any module needs");
    if (read<uint8_t>() != kProto) corrupt("does not begin with a protocol number");
    const auto protocol = read<uint8_t>();
    if (protocol < 2 || protocol > 5) corrupt("has an unknown pickle protocol");
    // Constants without state are shared: most of a pickle is small.
    none_ = make(PickleKind::kNone);
    false_ = make(PickleKind::kBool, 0);
    true_ = make(PickleKind::kBool, 1);
    empty_tuple_ = make(PickleKind::kTuple);
    opaque_ = make(PickleKind::kOpaque);
    while (step()) job.checkpoint();
    if (stack_.size() != 1 || !marks_.empty()) corrupt("leaves values on its stack");
    tree_.root = stack_.back();
    return std::move(tree_);
  }

 private:
  [[noreturn]] void corrupt(const std::string& what) const {
    fail(error_code::kCorruptFile, path_, "data.pkl " + what);
  }
  [[noreturn]] void unsafe(const std::string& what) const {
    fail(error_code::kUnsafeFile, path_, "data.pkl " + what);
  }

  template <class T>
  T read() {
    return load_le<T>(take(sizeof(T)).data());
  }

  std::span<const std::byte> take(uint64_t count) {
    if (count > pickle_.size() - at_) corrupt("ends too early");
    const auto bytes = pickle_.subspan(at_, count);
    at_ += count;
    return bytes;
  }

  PickleRef make(PickleKind kind, int64_t number = 0, std::string_view text = {}) {
    if (tree_.values.size() >= kMaxValues) unsafe("holds more values than any module needs");
    PickleValue& value = tree_.values.emplace_back();
    value.kind = kind;
    value.number = number;
    value.text = text;
    return static_cast<PickleRef>(tree_.values.size() - 1);
  }

  PickleValue& value(PickleRef ref) { return tree_.values[ref]; }

  void push(PickleRef ref) { stack_.push_back(ref); }

  // The lowest stack position that belongs to the innermost mark.
  size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }

  PickleRef pop() {
    if (stack_.size() <= floor()) corrupt("takes a value from an empty stack");
    const PickleRef ref = stack_.back();
    stack_.pop_back();
    return ref;
  }

  PickleRef top() const {
    if (stack_.size() <= floor()) corrupt("takes a value from an empty stack");
    return stack_.back();
  }

  // Everything above the last mark, which is removed with it.
  std::vector<PickleRef> pop_marked() {
    if (marks_.empty()) corrupt("ends a group that was not begun");
    const auto begin = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    std::vector<PickleRef> items(begin, stack_.end());
    stack_.erase(begin, stack_.end());
    marks_.pop_back();
    return items;
  }

  void add_items(PickleRef container, std::span<const PickleRef> items) {
    uint32_t depth = value(container).depth;
    for (const PickleRef item : items) depth = std::max(depth, value(item).depth + 1);
    if (depth > kMaxPickleDepth) unsafe("is nested too deeply");
    PickleValue& target = value(container);
    target.depth = depth;
    target.items.insert(target.items.end(), items.begin(), items.end());
  }

  PickleRef make_with(PickleKind kind, std::span<const PickleRef> items) {
    const PickleRef ref = make(kind);
    add_items(ref, items);
    return ref;
  }

  void extend(PickleRef container, PickleKind kind, std::span<const PickleRef> items) {
    if (value(container).kind != kind) corrupt("adds items to a value of another kind");
    if (kind == PickleKind::kDict && items.size() % 2 != 0) corrupt("has a key without a value");
    add_items(container, items);
  }

  void push_tuple(size_t count) {
    std::array<PickleRef, 3> items{};
    for (size_t i = count; i-- > 0;) items[i] = pop();
    push(make_with(PickleKind::kTuple, std::span(items).first(count)));
  }

  void push_text(uint64_t length) {
    const std::string_view text = as_text(take(length));
    if (!is_utf8(text)) corrupt("holds a string that is not UTF-8");
    push(make(PickleKind::kString, 0, text));
  }

  void push_long() {
    const auto length = read<uint8_t>();
    if (length > 8) corrupt("holds an integer of more than 64 bits");
    const auto bytes = take(length);
    uint64_t bits = 0;
    for (size_t i = 0; i < bytes.size(); ++i) bits |= std::to_integer<uint64_t>(bytes[i]) << 8 * i;
    if (length > 0 && length < 8 && (bits >> (8 * length - 1)) != 0) {
      bits |= ~uint64_t{0} << 8 * length;
    }
    push(make(PickleKind::kInt, static_cast<int64_t>(bits)));
  }

  void push_global() {
    const std::string_view rest = as_text(pickle_.subspan(at_)).substr(0, 2 * kMaxGlobalLength);
    const size_t first = rest.find('\n');
    const size_t second = first == rest.npos ? first : rest.find('\n', first + 1);
    if (second == rest.npos) corrupt("holds an unterminated global name");
    const std::string_view text = rest.substr(0, second);
    at_ += second + 1;
    const PickleGlobal kind = classify(text);
    if (kind == PickleGlobal::kNotGlobal) {
      std::string name(text);
      name[first] = '.';
      unsafe("refers to " + in_quotes(name) + ", which has no place in a TorchScript archive");
    }
    const PickleRef ref = make(PickleKind::kGlobal, 0, text);
    value(ref).global = kind;
    push(ref);
  }

  void put(uint32_t slot) {
    // Picklers number the slots in order; anything else would allow a memo of 2^32 entries.
    if (slot > memo_.size()) corrupt("stores a value out of order");
    if (slot == memo_.size()) {
      memo_.push_back(top());
    } else {
      memo_[slot] = top();
    }
  }

  void get(uint32_t slot) {
    if (slot >= memo_.size()) corrupt("refers to a value that it does not hold");
    push(memo_[slot]);
  }

  const PickleValue& argument(const PickleValue& arguments, size_t index, PickleKind kind) {
    if (arguments.kind != PickleKind::kTuple || index >= arguments.items.size() ||
        value(arguments.items[index]).kind != kind) {
      corrupt("calls a function with the wrong arguments");
    }
    return value(arguments.items[index]);
  }

  // ("storage", type, key, device, element count)
  void push_storage() {
    const PickleRef id_ref = pop();
    const PickleValue& id = value(id_ref);
    if (argument(id, 0, PickleKind::kString).text != "storage") {
      corrupt("refers to something that is not a storage");
    }
    if (argument(id, 1, PickleKind::kGlobal).global != PickleGlobal::kStorageType) {
      corrupt("has a storage without a type");
    }
    const std::string_view key = argument(id, 2, PickleKind::kString).text;
    if (key.size() > kMaxKeyLength) corrupt("has a storage with an absurdly long key");
    argument(id, 3, PickleKind::kString);  // the device it came from; the bytes are the same
    const int64_t count = argument(id, 4, PickleKind::kInt).number;
    if (count < 0) corrupt("has a storage of negative size");
    const PickleRef type = id.items[1];
    const PickleRef ref = make(PickleKind::kStorage, count, key);
    add_items(ref, std::span(&type, 1));
    push(ref);
  }

  // (storage, offset, sizes, strides, requires_grad, hooks[, flags]); quantised tensors have their
  // parameters before requires_grad.
  PickleRef make_tensor(PickleRef arguments_ref, bool is_quantized) {
    const PickleValue& arguments = value(arguments_ref);
    argument(arguments, 0, PickleKind::kStorage);
    const int64_t offset = argument(arguments, 1, PickleKind::kInt).number;
    for (const size_t index : {2, 3}) {
      const std::vector<PickleRef>& sizes = argument(arguments, index, PickleKind::kTuple).items;
      // Checked before the loop: one long tuple may serve as the shape of very many tensors.
      if (sizes.size() > kMaxRank) unsafe("has a tensor with too many dimensions");
      for (const PickleRef item : sizes) {
        if (value(item).kind != PickleKind::kInt) corrupt("has a tensor without a shape");
      }
    }
    auto form = is_quantized ? PickleTensorForm::kQuantized : PickleTensorForm::kPlain;
    if (!is_quantized && arguments.items.size() > 6) {
      const PickleValue& flags = value(arguments.items[6]);
      if (flags.kind != PickleKind::kDict || flags.items.size() > 2 * kMaxTensorFlags) {
        corrupt("has a tensor with unknown flags");
      }
      for (const PickleRef item : flags.items) {
        if (item == true_) form = PickleTensorForm::kLazyNegation;  // conj or neg is pending
      }
    }
    const std::array<PickleRef, 3> parts = {arguments.items[0], arguments.items[2],
                                            arguments.items[3]};
    const PickleRef ref = make(PickleKind::kTensor, offset);
    value(ref).form = form;
    add_items(ref, parts);
    return ref;
  }

  void reduce() {
    const PickleRef arguments_ref = pop();
    const PickleRef callee_ref = pop();
    const PickleGlobal callee = value(callee_ref).global;
    const PickleValue& arguments = value(arguments_ref);
    switch (callee) {
      case PickleGlobal::kRebuildTensor:
      case PickleGlobal::kRebuildQuantized:
        push(make_tensor(arguments_ref, callee == PickleGlobal::kRebuildQuantized));
        return;
      case PickleGlobal::kRebuildSparse: {
        const PickleRef ref = make(PickleKind::kTensor);
        value(ref).form = PickleTensorForm::kSparse;
        push(ref);
        return;
      }
      case PickleGlobal::kRebuildParameter:
        argument(arguments, 0, PickleKind::kTensor);
        push(arguments.items[0]);
        return;
      case PickleGlobal::kTypedList:
        argument(arguments, 0, PickleKind::kList);
        push(arguments.items[0]);
        return;
      case PickleGlobal::kRestoreTypeTag:
        argument(arguments, 1, PickleKind::kString);
        push(arguments.items[0]);
        return;
      case PickleGlobal::kOrderedDict:
        if (arguments_ref != empty_tuple_) corrupt("fills an OrderedDict in an unknown way");
        push(make(PickleKind::kDict));
        return;
      case PickleGlobal::kClass:  // a member of an enumeration
      case PickleGlobal::kOpaqueCall:
        push(opaque_);
        return;
      default:
        corrupt("calls something that is not a function");
    }
  }

  void build() {
    const PickleRef state = pop();
    const PickleRef object = top();
    if (value(object).kind != PickleKind::kObject || !value(object).items.empty()) {
      corrupt("sets the state of something that is not a new object");
    }
    add_items(object, std::span(&state, 1));
  }

  void new_object() {
    const PickleRef arguments = pop();
    const PickleRef type = pop();
    if (arguments != empty_tuple_ || value(type).global != PickleGlobal::kClass) {
      corrupt("creates an object in an unknown way");
    }
    push(make(PickleKind::kObject));
  }

  bool step() {
    const auto opcode = read<uint8_t>();
    switch (opcode) {
      case kStop:
        return false;
      case kMark:
        if (marks_.size() >= kMaxMarks) unsafe("is nested too deeply");
        marks_.push_back(stack_.size());
        break;
      case kNone:
        push(none_);
        break;
      case kNewTrue:
        push(true_);
        break;
      case kNewFalse:
        push(false_);
        break;
      case kEmptyTuple:
        push(empty_tuple_);
        break;
      case kEmptyList:
        push(make(PickleKind::kList));
        break;
      case kEmptyDict:
        push(make(PickleKind::kDict));
        break;
      case kBinInt:
        push(make(PickleKind::kInt, read<int32_t>()));
        break;
      case kBinInt1:
        push(make(PickleKind::kInt, read<uint8_t>()));
        break;
      case kBinInt2:
        push(make(PickleKind::kInt, read<uint16_t>()));
        break;
      case kLong1:
        push_long();
        break;
      case kBinFloat:
        take(8);
        push(opaque_);
        break;
      case kShortBinUnicode:
        push_text(read<uint8_t>());
        break;
      case kBinUnicode:
        push_text(read<uint32_t>());
        break;
      case kBinUnicode8:
        push_text(read<uint64_t>());
        break;
      case kGlobal:
        push_global();
        break;
      case kBinPut:
        put(read<uint8_t>());
        break;
      case kLongBinPut:
        put(read<uint32_t>());
        break;
      case kBinGet:
        get(read<uint8_t>());
        break;
      case kLongBinGet:
        get(read<uint32_t>());
        break;
      case kTuple1:
        push_tuple(1);
        break;
      case kTuple2:
        push_tuple(2);
        break;
      case kTuple3:
        push_tuple(3);
        break;
      case kTuple: {
        const auto items = pop_marked();
        push(items.empty() ? empty_tuple_ : make_with(PickleKind::kTuple, items));
        break;
      }
      case kList:
        push(make_with(PickleKind::kList, pop_marked()));
        break;
      case kDict: {
        const auto items = pop_marked();
        const PickleRef dict = make(PickleKind::kDict);
        extend(dict, PickleKind::kDict, items);
        push(dict);
        break;
      }
      case kAppend: {
        const PickleRef item = pop();
        extend(top(), PickleKind::kList, std::span(&item, 1));
        break;
      }
      case kAppends: {
        const auto items = pop_marked();
        extend(top(), PickleKind::kList, items);
        break;
      }
      case kSetItem: {
        const PickleRef item = pop();
        const std::array<PickleRef, 2> pair = {pop(), item};
        extend(top(), PickleKind::kDict, pair);
        break;
      }
      case kSetItems: {
        const auto items = pop_marked();
        extend(top(), PickleKind::kDict, items);
        break;
      }
      case kNewObj:
        new_object();
        break;
      case kReduce:
        reduce();
        break;
      case kBuild:
        build();
        break;
      case kBinPersId:
        push_storage();
        break;
      default:
        unsafe("uses pickle opcode " + std::to_string(opcode) +
               ", which no TorchScript archive needs");
    }
    return true;
  }

  std::span<const std::byte> pickle_;
  const std::string& path_;
  size_t at_ = 0;
  PickleTree tree_;
  std::vector<PickleRef> stack_;
  std::vector<size_t> marks_;
  std::vector<PickleRef> memo_;
  PickleRef none_ = 0, false_ = 0, true_ = 0, empty_tuple_ = 0, opaque_ = 0;
};

}  // namespace

PickleTree read_pickle(std::span<const std::byte> pickle, const std::string& path, const Job& job) {
  return Parser(pickle, path).run(job);
}

}  // namespace jitflux
