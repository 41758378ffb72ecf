#include "weights/torchscript_writer.h"

#include <map>
#include <numeric>
#include <set>
#include <string_view>

#include "weights/float_conversion.h"
#include "weights/reader_util.h"
#include "weights/zip_reader.h"
#include "weights/zip_writer.h"

namespace jitflux {
namespace {

constexpr std::string_view kRoot = "archive/";
constexpr std::string_view kNamespace = "__torch__.jit_flux";
constexpr std::string_view kRootClass = "Weights";
constexpr std::string_view kTraining = "training";  // every nn.Module has it
constexpr size_t kMaxLevels = 24;                   // FLUX has 6

const char* storage_name(WeightDType dtype) {
  switch (dtype) {
    case WeightDType::kFloat32:
      return "FloatStorage";
    case WeightDType::kBFloat16:
      return "BFloat16Storage";
    case WeightDType::kFloat16:
      return "HalfStorage";
    case WeightDType::kFloat64:
      return "DoubleStorage";
    case WeightDType::kInt64:
      return "LongStorage";
    case WeightDType::kInt32:
      return "IntStorage";
    case WeightDType::kInt16:
      return "ShortStorage";
    case WeightDType::kInt8:
      return "CharStorage";
    case WeightDType::kUInt8:
      return "ByteStorage";
    case WeightDType::kBool:
      return "BoolStorage";
  }
  return "";
}

// The part of pickle's protocol 2 that torch::jit::Unpickler reads.
class Pickle {
 public:
  Pickle() : out_("\x80\x02") {}

  void op(char code) { out_.push_back(code); }
  void global(std::string_view module, std::string_view name) {
    out_ += 'c';
    out_.append(module) += '\n';
    out_.append(name) += '\n';
  }
  void text(std::string_view value) {
    out_ += 'X';
    little_endian(value.size(), 4);
    out_.append(value);
  }
  void integer(int64_t value) {
    if (value >= 0 && value <= 0xFF) {
      out_ += 'K';
      little_endian(static_cast<uint64_t>(value), 1);
    } else if (value >= INT32_MIN && value <= INT32_MAX) {
      out_ += 'J';
      little_endian(static_cast<uint64_t>(value), 4);
    } else {
      out_ += "\x8a\x08";
      little_endian(static_cast<uint64_t>(value), 8);
    }
  }
  void integers(const std::vector<int64_t>& values) {  // a tuple
    op('(');
    for (const int64_t value : values) integer(value);
    op('t');
  }
  std::string take() {
    op('.');
    return std::move(out_);
  }

 private:
  void little_endian(uint64_t value, int bytes) {
    for (int i = 0; i < bytes; ++i) out_.push_back(static_cast<char>(value >> (8 * i)));
  }

  std::string out_;
};

class TorchScriptLayout final : public WeightLayout {
 public:
  TorchScriptLayout(const std::vector<TensorSpec>& tensors,
                    const std::vector<std::pair<std::string, std::vector<int64_t>>>& lists)
      : tensors_(tensors), lists_(lists) {
    build_tree();
    order_.resize(tensors_.size());
    std::iota(order_.begin(), order_.end(), size_t{0});
    for (size_t i = 0; i < tensors_.size(); ++i) {
      zip_.add(std::string(kRoot) + "data/" + std::to_string(i), tensors_[i].nbytes());
      data_offsets_.push_back(zip_.data_offset(i));
    }
    declare(0);
    Pickle pickle;
    write_module(0, &pickle);
    add("data.pkl", pickle.take());
    add("code/__torch__/jit_flux.py", source_);
    add("constants.pkl", "\x80\x02).");  // an empty tuple
    add("version", "3\n");
    add("byteorder", "little");
    file_size_ = zip_.file_size();
  }

  std::vector<FilePiece> frame(const std::vector<uint32_t>& tensor_crcs) const override {
    std::vector<uint32_t> crcs = tensor_crcs;
    std::vector<FilePiece> pieces;
    for (const std::string& contents : contents_) {
      crcs.push_back(crc32(std::as_bytes(std::span(contents))));
    }
    for (size_t i = 0; i < zip_.count(); ++i) {
      pieces.push_back({zip_.header_offset(i), zip_.local_header(i, crcs[i])});
      if (i >= tensors_.size()) pieces.back().bytes += contents_[i - tensors_.size()];
    }
    pieces.push_back({zip_.directory_offset(), zip_.directory(crcs)});
    return pieces;
  }

 private:
  struct Attribute {
    std::string name;
    bool is_module;
    size_t index;  // of a module or tensor
  };
  struct Module {
    std::vector<Attribute> attributes;
    std::string class_name;
  };

  [[noreturn]] static void refuse(const std::string& name, const char* why) {
    throw Error(error_code::kUnsupportedFormat, "A TorchScript module cannot hold a tensor named " +
                                                    in_quotes(name) + ": " + why +
                                                    "; write a safetensors file instead");
  }

  void add(std::string_view name, std::string contents) {
    zip_.add(std::string(kRoot).append(name), contents.size());
    contents_.push_back(std::move(contents));
  }

  void build_tree() {
    modules_.emplace_back();
    std::map<std::string, size_t> module_at = {{"", 0}};
    std::set<std::string> tensor_names;
    for (size_t i = 0; i < tensors_.size(); ++i) {
      const std::string& name = tensors_[i].name;
      size_t module = 0;
      size_t begin = 0;
      for (size_t level = 0;; ++level) {
        if (level == kMaxLevels) refuse(name, "it has too many levels");
        const size_t dot = name.find('.', begin);
        check_part(name, std::string_view(name).substr(begin, dot - begin));
        if (dot == std::string::npos) break;
        const auto [found, is_new] = module_at.try_emplace(name.substr(0, dot), modules_.size());
        if (is_new) {
          modules_[module].attributes.push_back(
              {name.substr(begin, dot - begin), true, modules_.size()});
          modules_.emplace_back();
        }
        module = found->second;
        begin = dot + 1;
      }
      if (!tensor_names.insert(name).second) refuse(name, "there are two of them");
      modules_[module].attributes.push_back({name.substr(begin), false, i});
    }
    for (const std::string& name : tensor_names) {
      if (module_at.contains(name)) refuse(name, "other tensors' names continue it");
    }
    for (const auto& [name, values] : lists_) {
      if (tensor_names.contains(name) || module_at.contains(name)) {
        refuse(name, "the name is taken by an attribute");
      }
    }
  }

  static void check_part(const std::string& name, std::string_view part) {
    if (part.empty()) refuse(name, "a part of it is empty");
    if (part == kTraining) refuse(name, "every module has an attribute 'training'");
    for (const char c : part) {
      if (c <= 0x20 || c >= 0x7F || c == '"' || c == '\\') {
        refuse(name, "it has characters that TorchScript cannot spell");
      }
    }
  }

  // Writes the classes of a module and of those below it, each before it is used.
  void declare(size_t index) {
    std::string parameters;
    std::string buffers;
    std::string types;
    for (const Attribute& attribute : modules_[index].attributes) {
      const std::string quoted = std::string("\"").append(attribute.name).append("\"");
      std::string type = "Tensor";
      if (attribute.is_module) {
        declare(attribute.index);
        type = std::string(kNamespace) + "." + modules_[attribute.index].class_name;
      } else {
        (is_floating_point(tensors_[attribute.index].dtype) ? parameters : buffers) +=
            quoted + ", ";
      }
      types += "  __annotations__[" + quoted + "] = " + type + "\n";
    }
    if (index == 0) {
      for (const auto& [list, values] : lists_) types += "  " + list + " : List[int]\n";
    }
    const std::string body = "  __parameters__ = [" + parameters + "]\n  __buffers__ = [" +
                             buffers + "]\n  " + std::string(kTraining) + " : bool\n" + types;
    std::string& known = class_of_[body];
    if (known.empty()) {
      known = index == 0 ? kRootClass : "Module" + std::to_string(class_of_.size() - 1);
      source_ += "class " + known + "(Module):\n" + body;
    }
    modules_[index].class_name = known;
  }

  void write_module(size_t index, Pickle* pickle) const {
    const Module& module = modules_[index];
    pickle->global(kNamespace, module.class_name);
    pickle->op(')');
    pickle->op('\x81');  // NEWOBJ
    pickle->op('}');
    pickle->op('(');
    pickle->text(kTraining);
    pickle->op('\x89');  // False
    for (const Attribute& attribute : module.attributes) {
      pickle->text(attribute.name);
      if (attribute.is_module) {
        write_module(attribute.index, pickle);
      } else {
        write_tensor(attribute.index, pickle);
      }
    }
    if (index == 0) {
      for (const auto& [name, values] : lists_) {
        pickle->text(name);
        pickle->global("torch.jit._pickle", "build_intlist");
        pickle->op('(');
        pickle->op(']');
        pickle->op('(');
        for (const int64_t value : values) pickle->integer(value);
        pickle->op('e');
        pickle->op('t');
        pickle->op('R');
      }
    }
    pickle->op('u');
    pickle->op('b');
  }

  // torch._utils._rebuild_tensor_v2(storage, offset, sizes, strides, requires_grad, hooks)
  void write_tensor(size_t index, Pickle* pickle) const {
    const TensorSpec& tensor = tensors_[index];
    pickle->global("torch._utils", "_rebuild_tensor_v2");
    pickle->op('(');
    pickle->op('(');
    pickle->text("storage");
    pickle->global("torch", storage_name(tensor.dtype));
    pickle->text(std::to_string(index));
    pickle->text("cpu");
    pickle->integer(checked_numel(tensor.shape).value());
    pickle->op('t');
    pickle->op('Q');  // BINPERSID
    pickle->integer(0);
    pickle->integers(tensor.shape);
    pickle->integers(contiguous_strides(tensor.shape));
    pickle->op('\x89');  // False
    pickle->global("collections", "OrderedDict");
    pickle->op(')');
    pickle->op('R');
    pickle->op('t');
    pickle->op('R');
  }

  std::vector<TensorSpec> tensors_;
  std::vector<std::pair<std::string, std::vector<int64_t>>> lists_;
  std::vector<Module> modules_;
  std::map<std::string, std::string> class_of_;  // body -> class
  std::string source_;
  std::vector<std::string> contents_;  // of the records after the tensors
  ZipWriter zip_;
};

}  // namespace

std::unique_ptr<WeightLayout> layout_torchscript(
    const std::vector<TensorSpec>& tensors,
    const std::vector<std::pair<std::string, std::vector<int64_t>>>& lists) {
  return std::make_unique<TorchScriptLayout>(tensors, lists);
}

}  // namespace jitflux
