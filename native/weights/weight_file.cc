#include "weights/weight_file.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <span>
#include <system_error>
#include <utility>

#include "weights/input_file.h"
#include "weights/reader_util.h"
#include "weights/safetensors_reader.h"
#include "weights/torchscript_reader.h"
#include "weights/weight_folder.h"

namespace jitflux {
namespace {

// Enough to tell formats apart.
std::vector<std::byte> read_beginning(const InputFile& file) {
  return file.read(0, std::min<uint64_t>(file.size(), 4096));
}

// Throws for the signatures of other formats.
void refuse_foreign(const std::string& path, std::span<const std::byte> bytes) {
  const auto unsupported = [&](const char* what) {
    fail(error_code::kUnsupportedFormat, path, what);
  };
  refuse_text(path, bytes);
  if (starts_with(bytes, "GGUF")) unsupported("GGUF files are not supported; use safetensors");
  if (starts_with(bytes, "\x80")) {
    unsupported("a bare pickle (old torch.save) is not supported; save the weights as safetensors");
  }
}

}  // namespace

size_t element_size(WeightDType dtype) {
  switch (dtype) {
    case WeightDType::kFloat64:
    case WeightDType::kInt64:
      return 8;
    case WeightDType::kFloat32:
    case WeightDType::kInt32:
      return 4;
    case WeightDType::kBFloat16:
    case WeightDType::kFloat16:
    case WeightDType::kInt16:
      return 2;
    case WeightDType::kInt8:
    case WeightDType::kUInt8:
    case WeightDType::kBool:
      return 1;
  }
  return 1;
}

const char* dtype_name(WeightDType dtype) {
  switch (dtype) {
    case WeightDType::kFloat32:
      return "float32";
    case WeightDType::kBFloat16:
      return "bfloat16";
    case WeightDType::kFloat16:
      return "float16";
    case WeightDType::kFloat64:
      return "float64";
    case WeightDType::kInt64:
      return "int64";
    case WeightDType::kInt32:
      return "int32";
    case WeightDType::kInt16:
      return "int16";
    case WeightDType::kInt8:
      return "int8";
    case WeightDType::kUInt8:
      return "uint8";
    case WeightDType::kBool:
      return "bool";
  }
  return "unknown";
}

int64_t WeightTensor::numel() const { return checked_numel(shape).value_or(0); }

bool WeightTensor::contiguous() const {
  if (numel() == 0) return true;
  const std::vector<int64_t> expected = contiguous_strides(shape);
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] != 1 && strides[i] != expected[i]) return false;
  }
  return true;
}

size_t WeightTensor::nbytes() const { return static_cast<size_t>(numel()) * element_size(dtype); }

namespace {

// Up to this many times the bytes that are wanted may be read for them in one piece.
constexpr uint64_t kMaxReadAround = 8;

void read_strided(const WeightTensor& tensor, uint64_t first, uint64_t count, std::byte* to) {
  const size_t size = element_size(tensor.dtype);
  const size_t rank = tensor.shape.size();
  std::vector<int64_t> position(rank);
  for (size_t d = rank; d-- > 0;) {
    position[d] = static_cast<int64_t>(first % static_cast<uint64_t>(tensor.shape[d]));
    first /= static_cast<uint64_t>(tensor.shape[d]);
  }
  uint64_t at = 0;  // of the element, and below of the last one of all, in elements
  uint64_t last = 0;
  for (size_t d = 0; d < rank; ++d) {
    at += static_cast<uint64_t>(position[d] * tensor.strides[d]);
    last += static_cast<uint64_t>((tensor.shape[d] - 1) * tensor.strides[d]);
  }
  // The whole extent at once, unless most of it would be read for nothing.
  std::vector<std::byte> extent;
  if (last / kMaxReadAround < count) extent = tensor.file->read(tensor.offset, (last + 1) * size);
  for (; count > 0; --count, to += size) {
    if (extent.empty()) {
      tensor.file->read(tensor.offset + at * size, {to, size});
    } else {
      std::memcpy(to, extent.data() + at * size, size);
    }
    for (size_t d = rank; d-- > 0;) {
      at += static_cast<uint64_t>(tensor.strides[d]);
      if (++position[d] < tensor.shape[d]) break;
      at -= static_cast<uint64_t>(tensor.shape[d] * tensor.strides[d]);
      position[d] = 0;
    }
  }
}

}  // namespace

void read_elements(const WeightTensor& tensor, uint64_t first, uint64_t count, std::byte* to) {
  if (count == 0) return;
  if (tensor.contiguous()) {
    const size_t size = element_size(tensor.dtype);
    tensor.file->read(tensor.offset + first * size, {to, count * size});
  } else {
    read_strided(tensor, first, count, to);
  }
  tensor.file->expect_unchanged();
}

void WeightFile::expect_unchanged_mappings() const {
  for (const InputFile* file : inputs()) {
    if (file->mapped()) file->expect_unchanged();
  }
}

void WeightFile::close() const {
  for (const InputFile* file : inputs()) file->close();
}

const WeightTensor* WeightFile::find(const std::string& name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

uint64_t WeightFile::total_bytes() const {
  uint64_t total = 0;
  for (const WeightTensor& tensor : tensors_) {
    if (__builtin_add_overflow(total, uint64_t{tensor.nbytes()}, &total)) {
      return std::numeric_limits<uint64_t>::max();
    }
  }
  return total;
}

std::vector<std::string> WeightFile::files() const {
  std::vector<std::string> paths;
  for (const InputFile* file : inputs()) paths.push_back(file->path());
  return paths;
}

uint64_t WeightFile::file_bytes() const {
  uint64_t total = 0;
  for (const InputFile* file : inputs()) total += file->size();
  return total;
}

std::map<WeightDType, uint64_t> WeightFile::elements_by_type() const {
  std::map<WeightDType, uint64_t> elements;
  for (const WeightTensor& tensor : tensors_) {
    elements[tensor.dtype] += static_cast<uint64_t>(tensor.numel());
  }
  return elements;
}

std::shared_ptr<const WeightFile> WeightFile::open(const std::string& path,
                                                   const OpenOptions& options) {
  struct stat info {};
  if (::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) {
    const std::optional<std::string> file = find_folder_weights(path);
    if (!file) {
      fail(error_code::kFileNotFound, path,
           "the directory holds no .safetensors, .safetensors.index.json or .pt file");
    }
    return open(*file, options);
  }
  return open(InputFile(path), options);
}

std::shared_ptr<const WeightFile> WeightFile::open(InputFile file, const OpenOptions& options) {
  const std::string path = file.path();
  if (file.size() == 0) fail(error_code::kCorruptFile, path, "the file is empty");
  const std::vector<std::byte> beginning = read_beginning(file);
  const std::span<const std::byte> bytes(beginning);
  if (starts_with(bytes, "PK\x03\x04")) return open_torchscript(std::move(file), options);
  if (looks_like_safetensors(bytes)) return open_safetensors(std::move(file), options);
  // A JSON text; the index reader tells whether it is an index.
  const size_t first = as_text(bytes).find_first_not_of(" \t\r\n");
  if (first != std::string_view::npos && bytes[first] == std::byte{'{'}) {
    return open_safetensors_index(file, options);
  }
  refuse_foreign(path, bytes);
  // What is called a safetensors file is damaged, and its reader says how.
  if (path.ends_with(".safetensors")) return open_safetensors(std::move(file), options);
  fail(error_code::kUnsupportedFormat, path,
       "neither a TorchScript archive, a safetensors file nor a safetensors index");
}

}  // namespace jitflux
