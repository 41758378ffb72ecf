#include "weights/safetensors_reader.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <map>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "weights/json.h"
#include "weights/reader_util.h"

namespace jitflux {
namespace {

constexpr uint64_t kMaxHeader = 100'000'000;  // the limit of the reference implementation
constexpr size_t kMaxMetadata = 16 << 20;
constexpr size_t kMaxMetadataEntries = 65536;
constexpr size_t kMaxShards = 4096;
constexpr size_t kMaxShown = 20;

struct DType {
  std::string_view name;
  WeightDType dtype;
};

constexpr std::array kDTypes = {
    DType{"F32", WeightDType::kFloat32}, DType{"BF16", WeightDType::kBFloat16},
    DType{"F16", WeightDType::kFloat16}, DType{"F64", WeightDType::kFloat64},
    DType{"I64", WeightDType::kInt64},   DType{"I32", WeightDType::kInt32},
    DType{"I16", WeightDType::kInt16},   DType{"I8", WeightDType::kInt8},
    DType{"U8", WeightDType::kUInt8},    DType{"BOOL", WeightDType::kBool},
};

std::optional<WeightDType> dtype_of(std::string_view name) {
  for (const DType& known : kDTypes) {
    if (known.name == name) return known.dtype;
  }
  return std::nullopt;
}

class SafetensorsFile final : public WeightFile {
 public:
  SafetensorsFile(InputFile file, const OpenOptions& options) : file_(std::move(file)) {
    path_ = file_.path();
    may_map_ = options.map;
    read_header(options);
    check_overlap();
  }

  const char* format() const override { return "safetensors"; }
  std::vector<const InputFile*> inputs() const override { return {&file_}; }

 private:
  struct Extent {
    uint64_t begin;
    uint64_t end;
    size_t tensor;
  };

  [[noreturn]] void corrupt(const std::string& what) const {
    fail(error_code::kCorruptFile, path_, what);
  }

  void read_header(const OpenOptions& options) {
    if (file_.size() < 8) corrupt("truncated safetensors file");
    const auto length = load_le<uint64_t>(file_.read(0, 8).data());
    if (length > kMaxHeader) {
      fail(error_code::kUnsafeFile, path_, "the safetensors header is larger than 100 MB");
    }
    if (length > file_.size() - 8) corrupt("truncated safetensors file (header incomplete)");
    data_offset_ = 8 + length;
    data_size_ = file_.size() - data_offset_;

    const std::vector<std::byte> header = file_.read(8, length);
    JsonReader json(as_text(header), path_, "safetensors header", options.job);
    std::string unsupported;
    size_t unsupported_count = 0;
    std::string name;
    json.begin_object();
    while (json.next_key(&name)) {
      if (name == "__metadata__") {
        read_metadata(&json, options.metadata);
        continue;
      }
      std::string dtype;
      if (!read_tensor(&json, name, &dtype) && ++unsupported_count <= kMaxShown) {
        if (!unsupported.empty()) unsupported += ", ";
        unsupported += in_quotes(name) + " (" + in_quotes(dtype) + ")";
      }
    }
    json.finish();
    if (unsupported_count > kMaxShown) unsupported += ", ...";
    if (unsupported_count > 0) {
      fail(error_code::kUnsupportedFormat, path_, "tensors of an unsupported type: " + unsupported);
    }
  }

  void read_metadata(JsonReader* json, bool keep) {
    if (!json->next_is('{')) return json->skip();
    size_t kept = 0;
    std::string key;
    json->begin_object();
    while (json->next_key(&key)) {
      if ((key != kAxesMetadata && !keep) || !json->next_is('"')) {
        json->skip();
        continue;
      }
      std::string text = json->read_string();
      if (key == kAxesMetadata) read_axes(text);
      if (!keep) continue;
      kept += key.size() + text.size();
      if (kept > kMaxMetadata || metadata_.size() >= kMaxMetadataEntries) {
        fail(error_code::kUnsafeFile, path_, "its metadata is larger than 16 MiB or 65536 entries");
      }
      if (!metadata_.emplace(key, std::move(text)).second) {
        corrupt("its metadata holds " + in_quotes(key) + " twice");
      }
    }
  }

  // Our own writer leaves the integer lists of a model in the metadata; see safetensors_writer.h.
  void read_axes(std::string_view text) {
    std::vector<int64_t> numbers;
    const char* at = text.data();
    const char* const end = at + text.size();
    while (at < end && numbers.size() < 3) {
      const auto [next, error] = std::from_chars(at, end, numbers.emplace_back());
      if (error != std::errc() || (next < end && *next != ',')) return;
      at = next < end ? next + 1 : next;
    }
    if (numbers.size() == 3 && at == end) int_lists_[kAxesMetadata] = std::move(numbers);
  }

  // False if the element type is unknown; `dtype` then names it.
  bool read_tensor(JsonReader* json, const std::string& name, std::string* dtype_text) {
    const auto label = [&] { return "tensor " + in_quotes(name); };
    if (tensors_.size() >= kMaxTensors) fail(error_code::kUnsafeFile, path_, "too many tensors");
    if (name.size() > kMaxNameLength) {
      fail(error_code::kUnsafeFile, path_, label() + " has an absurdly long name");
    }
    WeightTensor tensor;
    tensor.name = name;
    std::vector<int64_t> offsets;
    bool has_shape = false;
    std::string key;
    json->begin_object();
    while (json->next_key(&key)) {
      if (key == "dtype" && dtype_text->empty()) {
        *dtype_text = json->read_string();
      } else if (key == "shape" && !has_shape) {
        has_shape = true;
        tensor.shape = read_sizes(json, kMaxRank, label());
      } else if (key == "data_offsets" && offsets.empty()) {
        offsets = read_sizes(json, 2, label());
      } else {
        corrupt(label() + " has an unknown or repeated field " + in_quotes(key));
      }
    }
    if (dtype_text->empty() || !has_shape || offsets.size() != 2) {
      corrupt(label() + " lacks its dtype, shape or offsets");
    }
    const std::optional<WeightDType> dtype = dtype_of(*dtype_text);
    if (!dtype) return false;
    tensor.dtype = *dtype;

    const auto begin = static_cast<uint64_t>(offsets[0]);
    const auto end = static_cast<uint64_t>(offsets[1]);
    if (begin > end || end > data_size_) corrupt(label() + " lies outside the file");
    const size_t size = element_size(*dtype);
    const std::optional<int64_t> numel = checked_numel(tensor.shape);
    if (!numel || (end - begin) % size != 0 ||
        static_cast<uint64_t>(*numel) != (end - begin) / size) {
      corrupt(label() + " has " + std::to_string(end - begin) + " bytes, which is not " +
              shape_string(tensor.shape) + " of " + in_quotes(*dtype_text));
    }
    tensor.strides = contiguous_strides(tensor.shape);
    tensor.file = &file_;
    if (!index_.emplace(name, tensors_.size()).second) {
      corrupt("two tensors are named " + in_quotes(name));
    }
    if (begin < end) extents_.push_back({begin, end, tensors_.size()});
    tensors_.push_back(std::move(tensor));
    return true;
  }

  std::vector<int64_t> read_sizes(JsonReader* json, size_t limit, const std::string& label) const {
    std::vector<int64_t> sizes;
    json->begin_array();
    while (json->next_item()) {
      if (sizes.size() == limit) {
        fail(error_code::kUnsafeFile, path_, label + " has too many dimensions");
      }
      sizes.push_back(json->read_size());
    }
    return sizes;
  }

  // Places are known only here, once no two tensors share bytes.
  void check_overlap() {
    std::sort(extents_.begin(), extents_.end(),
              [](const Extent& a, const Extent& b) { return a.begin < b.begin; });
    uint64_t reached = 0;
    for (const Extent& extent : extents_) {
      if (extent.begin < reached) {
        corrupt("tensor " + in_quotes(tensors_[extent.tensor].name) + " overlaps another");
      }
      reached = extent.end;
    }
    for (const Extent& extent : extents_) {
      tensors_[extent.tensor].offset = data_offset_ + extent.begin;
    }
    extents_ = {};
  }

  InputFile file_;
  uint64_t data_offset_ = 0;
  uint64_t data_size_ = 0;
  std::vector<Extent> extents_;  // only while reading
};

class ShardedSafetensors final : public WeightFile {
 public:
  ShardedSafetensors(const InputFile& index, const OpenOptions& options) {
    path_ = index.path();
    may_map_ = options.map;
    const size_t slash = path_.rfind('/');
    folder_ = slash == std::string::npos ? "" : path_.substr(0, slash + 1);
    if (index.size() > kMaxHeader) {
      fail(error_code::kUnsafeFile, path_, "the index is larger than 100 MB");
    }
    const std::vector<std::byte> text = index.read(0, index.size());
    JsonReader json(as_text(text), path_, "safetensors index", options.job);
    bool has_map = false;
    std::string key;
    json.begin_object();
    while (json.next_key(&key)) {
      if (key == "weight_map" && !has_map) {
        has_map = true;
        read_weight_map(&json);
      } else {
        json.skip();
      }
    }
    json.finish();
    if (!has_map) {
      fail(error_code::kUnsupportedFormat, path_,
           "a JSON file without weight_map is not a safetensors index");
    }
    link_tensors(options);
  }

  const char* format() const override { return "safetensors"; }
  std::vector<const InputFile*> inputs() const override {
    std::vector<const InputFile*> files;
    for (const auto& shard : shards_) {
      for (const InputFile* file : shard->inputs()) files.push_back(file);
    }
    return files;
  }
  std::vector<std::string> files() const override {
    std::vector<std::string> paths = WeightFile::files();
    paths.insert(paths.begin(), path_);
    return paths;
  }

 private:
  void read_weight_map(JsonReader* json) {
    std::string name;
    json->begin_object();
    while (json->next_key(&name)) {
      const std::string shard = json->read_string();
      if (listed_.size() >= kMaxTensors) fail(error_code::kUnsafeFile, path_, "too many tensors");
      check_shard_name(shard);
      const auto position = shard_index_.try_emplace(shard, shard_index_.size()).first;
      if (shard_index_.size() > kMaxShards) fail(error_code::kUnsafeFile, path_, "too many shards");
      if (!listed_.emplace(name, position).second) {
        fail(error_code::kCorruptFile, path_, "the index lists " + in_quotes(name) + " twice");
      }
    }
  }

  // An index may only name its neighbours, or it could make us read any file of the machine.
  void check_shard_name(const std::string& shard) const {
    if (shard.empty() || shard.size() > 255 || shard == "." ||
        shard.find("..") != std::string::npos || shard.find('/') != std::string::npos ||
        shard.find('\\') != std::string::npos || shard.find('\0') != std::string::npos) {
      fail(error_code::kUnsafeFile, path_,
           "the index names the shard " + in_quotes(shard) + ", which is not a plain file name");
    }
  }

  void link_tensors(const OpenOptions& options) {
    shards_.resize(shard_index_.size());
    refuse_missing();
    for (const auto& [shard, position] : shard_index_) {
      InputFile file(folder_ + shard);
      const std::vector<std::byte> beginning = file.read(0, std::min<uint64_t>(file.size(), 64));
      if (!looks_like_safetensors(beginning)) {
        refuse_text(file.path(), beginning);
        fail(error_code::kCorruptFile, file.path(), "a shard that is not a safetensors file");
      }
      shards_[position] = std::make_shared<SafetensorsFile>(std::move(file), options);
    }
    for (const auto& [name, shard] : listed_) {
      const WeightTensor* tensor = shards_[shard->second]->find(name);
      if (tensor == nullptr) {
        fail(error_code::kCorruptFile, path_,
             "the index lists " + in_quotes(name) + " in the shard " + in_quotes(shard->first) +
                 ", which does not hold it");
      }
      index_.emplace(name, tensors_.size());
      tensors_.push_back(*tensor);
    }
    listed_.clear();
  }

  // All that are missing at once.
  void refuse_missing() const {
    std::vector<std::string> missing;
    for (const auto& [shard, position] : shard_index_) {
      struct stat info {};
      if (::stat((folder_ + shard).c_str(), &info) != 0 && errno == ENOENT)
        missing.push_back(shard);
    }
    if (missing.empty()) return;
    std::string list;
    for (size_t i = 0; i < missing.size() && i < kMaxShown; ++i) {
      list += (i > 0 ? ", " : "") + in_quotes(missing[i]);
    }
    if (missing.size() > kMaxShown) list += ", ...";
    throw Error(error_code::kFileNotFound,
                printable_path(path_) + ": the index names " +
                    (missing.size() == 1 ? "a shard that is" : "shards that are") +
                    " missing: " + list,
                {{"path", path_}, {"missing", missing}});
  }

  using ShardIndex = std::map<std::string, size_t>;

  std::string folder_;  // with its slash
  ShardIndex shard_index_;
  std::map<std::string, ShardIndex::const_iterator> listed_;  // only while reading
  std::vector<std::shared_ptr<const WeightFile>> shards_;
};

}  // namespace

bool looks_like_safetensors(std::span<const std::byte> bytes) {
  // An index begins with '{' too, but its bytes 4 to 7 are text, which makes the length enormous.
  return bytes.size() >= 9 && load_le<uint64_t>(bytes.data()) < (uint64_t{1} << 32) &&
         bytes[8] == std::byte{'{'};
}

std::shared_ptr<const WeightFile> open_safetensors(InputFile file, const OpenOptions& options) {
  return std::make_shared<SafetensorsFile>(std::move(file), options);
}

std::shared_ptr<const WeightFile> open_safetensors_index(const InputFile& index,
                                                         const OpenOptions& options) {
  return std::make_shared<ShardedSafetensors>(index, options);
}

}  // namespace jitflux
