// Named tensors of a weight file, read and never run. No LibTorch here: the readers hand out places
// in the file, and every extent is checked before a place leaves them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/job.h"

namespace jitflux {

enum class WeightDType {
  kFloat32,
  kBFloat16,
  kFloat16,
  kFloat64,
  kInt64,
  kInt32,
  kInt16,
  kInt8,
  kUInt8,
  kBool
};

size_t element_size(WeightDType dtype);
const char* dtype_name(WeightDType dtype);  // "float32", "bfloat16", ...

class InputFile;

// One tensor. `file` stays valid as long as the WeightFile lives.
struct WeightTensor {
  std::string name;
  WeightDType dtype = WeightDType::kFloat32;
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;  // in elements; all extents were checked against the record
  const InputFile* file = nullptr;
  uint64_t offset = 0;  // of the first element, in the file

  int64_t numel() const;
  bool contiguous() const;
  size_t nbytes() const;  // numel * element size
};

// Elements [first, first + count) in row-major order and in the file's type, count * element size
// bytes: read, not mapped. Tensors that are not contiguous cost least when they are read whole.
// Throws Error kWeightsChanged.
void read_elements(const WeightTensor& tensor, uint64_t first, uint64_t count, std::byte* to);

struct OpenOptions {
  bool verify = false;    // check the CRC-32 of every record of a TorchScript archive
  bool map = true;        // tensors may be used in place, from a mapping of the file
  bool metadata = false;  // keep what WeightFile::metadata() gives
  // Asked again and again while the file is read, which takes seconds for the largest header and
  // minutes with `verify`: throws kAborted.
  Job job = {};
};

class WeightFile {
 public:
  virtual ~WeightFile() = default;

  // Opens a TorchScript archive, a .safetensors file, a *.safetensors.index.json, or a directory
  // that holds exactly one index or one weight file. The kind is told by content, not by extension.
  // Throws jitflux::Error: kFileNotFound, kUnsupportedFormat, kCorruptFile, kUnsafeFile,
  // kAborted. A new
  // format (GGUF) is one more subclass, told apart in open(); block-quantised elements need a type
  // of their own in WeightDType and their conversion in float_conversion.h.
  static std::shared_ptr<const WeightFile> open(const std::string& path,
                                                const OpenOptions& options = {});
  // The same of one file, which is open. An index opens the shards beside its path.
  static std::shared_ptr<const WeightFile> open(InputFile file, const OpenOptions& options = {});

  virtual const char* format() const = 0;  // "torchscript" | "safetensors"
  const std::string& path() const { return path_; }
  const std::vector<WeightTensor>& tensors() const { return tensors_; }
  const WeightTensor* find(const std::string& name) const;  // nullptr if absent
  // Integer-list attributes of a TorchScript module (e.g. axes_dims_rope), by attribute path.
  const std::map<std::string, std::vector<int64_t>>& int_lists() const { return int_lists_; }
  // The texts that a safetensors file holds beside its tensors (`__metadata__`), by their names;
  // empty unless OpenOptions::metadata asked for them. Other values than texts are left out.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  // The files that the tensors lie in.
  virtual std::vector<const InputFile*> inputs() const = 0;
  bool may_map() const { return may_map_; }  // OpenOptions::map
  // If any of it has been mapped: throws Error kWeightsChanged unless those files are as they were.
  void expect_unchanged_mappings() const;
  // All tensors that anybody wants have been read, and none is mapped.
  void close() const;
  uint64_t total_bytes() const;  // sum of nbytes over the tensors
  // Every file that was opened, an index first.
  virtual std::vector<std::string> files() const;
  uint64_t file_bytes() const;                               // of the weight files, without index
  std::map<WeightDType, uint64_t> elements_by_type() const;  // of the tensors

 protected:
  std::string path_;
  std::vector<WeightTensor> tensors_;
  std::map<std::string, std::vector<int64_t>> int_lists_;
  std::map<std::string, std::string> metadata_;
  std::map<std::string, size_t> index_;  // name -> position in tensors_
  bool may_map_ = true;
};

}  // namespace jitflux
