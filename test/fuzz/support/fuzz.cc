#include "support/fuzz.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "weights/reader_util.h"
#include "weights/safetensors_reader.h"
#include "weights/safetensors_writer.h"
#include "weights/torchscript_reader.h"
#include "weights/torchscript_writer.h"
#include "weights/zip_reader.h"
#include "weights/zip_writer.h"

namespace jitflux::fuzz {
namespace {

constexpr size_t kMaxMessage = 64 * 1024;
constexpr uint64_t kMaxWritten = uint64_t{1} << 20;
// Of weights/torchscript_reader.cc: how many times larger than its file an archive may be.
constexpr uint64_t kMaxSharing = 64;

std::string contiguous_bytes(const WeightTensor& tensor) {
  const size_t size = element_size(tensor.dtype);
  const auto count = static_cast<size_t>(tensor.numel());
  std::string out(count * size, '\0');
  const size_t rank = tensor.shape.size();
  if (count == 0) return out;
  int64_t last = 0;
  for (size_t d = 0; d < rank; ++d) last += (tensor.shape[d] - 1) * tensor.strides[d];
  const std::vector<std::byte> extent =
      tensor.file->read(tensor.offset, (static_cast<size_t>(last) + 1) * size);
  std::vector<int64_t> position(rank);
  for (size_t i = 0; i < count; ++i) {
    int64_t at = 0;
    for (size_t d = 0; d < rank; ++d) at += position[d] * tensor.strides[d];
    std::memcpy(out.data() + i * size, extent.data() + static_cast<size_t>(at) * size, size);
    for (size_t d = rank; d-- > 0;) {
      if (++position[d] < tensor.shape[d]) break;
      position[d] = 0;
    }
  }
  std::string elements(out.size(), '\0');
  read_elements(tensor, 0, count, reinterpret_cast<std::byte*>(elements.data()));
  expect(elements == out, "elements are read in row-major order");
  return out;
}

std::vector<TensorSpec> specs_of(const WeightFile& file) {
  std::vector<TensorSpec> specs;
  for (const WeightTensor& tensor : file.tensors()) {
    specs.push_back({tensor.name, tensor.dtype, tensor.shape});
  }
  return specs;
}

std::string image(const WeightFile& file, const WeightLayout& layout) {
  std::string out(layout.file_size(), '\0');
  std::vector<uint32_t> crcs;
  for (size_t i = 0; i < file.tensors().size(); ++i) {
    const std::string content = contiguous_bytes(file.tensors()[i]);
    expect(layout.data_offset(i) + content.size() <= out.size(), "a layout holds its tensors");
    std::copy(content.begin(), content.end(),
              out.begin() + static_cast<std::ptrdiff_t>(layout.data_offset(i)));
    crcs.push_back(crc32(as_bytes(content)));
  }
  for (const FilePiece& piece : layout.frame(crcs)) {
    expect(piece.offset + piece.bytes.size() <= out.size(), "a layout holds its frame");
    std::copy(piece.bytes.begin(), piece.bytes.end(),
              out.begin() + static_cast<std::ptrdiff_t>(piece.offset));
  }
  return out;
}

}  // namespace

void broken(const std::string& property) {
  std::fprintf(stderr, "==== broken property: %s\n", property.c_str());
  std::abort();
}

void check_error(const Error& error, std::initializer_list<const char*> codes) {
  const bool known = std::any_of(codes.begin(), codes.end(),
                                 [&](const char* code) { return error.code() == code; });
  if (!known) broken("an unexpected code: " + error.code() + ": " + error.what());
  const std::string_view message = error.what();
  expect(message.size() <= kMaxMessage, "a message is not absurdly long");
  expect(is_utf8(message), "a message is UTF-8");
  for (size_t i = 0; i < message.size(); ++i) {
    const auto byte = static_cast<unsigned char>(message[i]);
    const bool c1 = byte == 0xC2 && static_cast<unsigned char>(message[i + 1]) < 0xA0;
    expect(byte >= 0x20 && byte != 0x7F && !c1, "a message has no control characters");
  }
}

Moved::Moved(Bytes bytes, size_t shift) : size_(bytes.size()) {
  // As much in front as the alignment may take, nothing behind: there the allocator looks after it.
  const size_t room = size_ + 64 + shift;
  buffer_ = std::make_unique_for_overwrite<std::byte[]>(room);
  const auto address = reinterpret_cast<uintptr_t>(buffer_.get() + room - size_);
  // The last address with the wanted remainder from which the bytes still fit.
  const size_t back = (address - shift) % 64;
  data_ = buffer_.get() + room - size_ - back;
  if (size_ > 0) std::memcpy(data_, bytes.data(), size_);
}

Bytes Moved::bytes() const { return {data_, size_}; }

void check_tensors(const WeightFile& file, Bytes bytes) {
  struct Extent {
    uint64_t begin;
    uint64_t end;
  };
  std::vector<Extent> extents;
  uint64_t total = 0;
  expect(file.tensors().size() <= kMaxTensors, "the number of tensors is limited");
  for (const WeightTensor& tensor : file.tensors()) {
    expect(tensor.name.size() <= kMaxNameLength, "the length of a name is limited");
    expect(is_utf8(tensor.name), "a name is UTF-8");
    expect(file.find(tensor.name) == &tensor, "a tensor is found by its name");
    expect(tensor.shape.size() <= kMaxRank, "the rank of a tensor is limited");
    expect(tensor.shape.size() == tensor.strides.size(), "as many strides as sizes");
    const std::optional<int64_t> numel = checked_numel(tensor.shape);
    expect(numel.has_value() && *numel >= 0, "the number of elements fits");
    expect(*numel == tensor.numel(), "numel() is the number of elements");
    const size_t size = element_size(tensor.dtype);
    uint64_t nbytes = 0;
    expect(!__builtin_mul_overflow(static_cast<uint64_t>(*numel), size, &nbytes) &&
               nbytes == tensor.nbytes(),
           "nbytes() is the number of bytes");
    total += nbytes;
    int64_t last = 0;
    for (size_t d = 0; d < tensor.shape.size(); ++d) {
      expect(tensor.shape[d] >= 0 && tensor.strides[d] >= 0, "sizes and strides are not negative");
      if (*numel > 0) last += (tensor.shape[d] - 1) * tensor.strides[d];
    }
    if (*numel == 0) continue;
    expect(tensor.file != nullptr, "a tensor has a file");
    const uint64_t length = (static_cast<uint64_t>(last) + 1) * size;
    expect(tensor.offset <= tensor.file->size() && length <= tensor.file->size() - tensor.offset,
           "a tensor lies inside the file");
    tensor.file->read(tensor.offset, length);  // whose end AddressSanitizer watches
    extents.push_back({tensor.offset, tensor.offset + length});
  }
  if (!bytes.empty() && file.format() == std::string_view("safetensors")) {
    std::sort(extents.begin(), extents.end(),
              [](const Extent& a, const Extent& b) { return a.begin < b.begin; });
    for (size_t i = 1; i < extents.size(); ++i) {
      expect(extents[i - 1].end <= extents[i].begin, "tensors do not overlap");
    }
    expect(total <= bytes.size(), "tensors are no larger than their file");
  }
  if (!bytes.empty()) {
    expect(total / kMaxSharing <= bytes.size(),
           "tensors are not many times as large as their file");
    expect(file.file_bytes() == bytes.size(), "file_bytes() is the size of the file");
  }
  expect(file.total_bytes() == total, "total_bytes() is the size of all tensors");
  uint64_t elements = 0;
  for (const auto& [dtype, count] : file.elements_by_type()) elements += count;
  uint64_t counted = 0;
  for (const WeightTensor& tensor : file.tensors()) {
    counted += static_cast<uint64_t>(tensor.numel());
  }
  expect(elements == counted, "elements_by_type() counts all elements");
}

void check_same(const WeightFile& a, const WeightFile& b) {
  expect(a.tensors().size() == b.tensors().size(), "as many tensors");
  for (const WeightTensor& tensor : a.tensors()) {
    const WeightTensor* other = b.find(tensor.name);
    expect(other != nullptr, "the same names");
    expect(other->dtype == tensor.dtype && other->shape == tensor.shape,
           "the same types and shapes");
    if (tensor.nbytes() <= kMaxWritten) {
      expect(contiguous_bytes(tensor) == contiguous_bytes(*other), "the same contents");
    }
  }
}

std::string FileImage::safetensors(const WeightFile& file) {
  return image(file, *layout_safetensors(specs_of(file), {{"format", "pt"}}));
}

std::string FileImage::torchscript(const WeightFile& file) {
  return image(file, *layout_torchscript(specs_of(file), {}));
}

void check_written(const WeightFile& file) {
  uint64_t total = 0;
  for (const WeightTensor& tensor : file.tensors()) total += tensor.nbytes();
  if (total > kMaxWritten) return;

  std::string first;
  // A name that only a TorchScript archive can have is refused.
  outcome({error_code::kUnsupportedFormat}, [&] { first = FileImage::safetensors(file); });
  if (!first.empty()) {
    const auto read = open_safetensors(InputFile("written", as_bytes(first)), {});
    check_tensors(*read, as_bytes(first));
    check_same(file, *read);
    expect(FileImage::safetensors(*read) == first,
           "what is read back is written to the same bytes");
  }

  std::string archive;
  const std::string refused =
      outcome({error_code::kUnsupportedFormat}, [&] { archive = FileImage::torchscript(file); });
  if (refused.empty()) {
    const auto read = open_torchscript(InputFile("written", as_bytes(archive)), {.verify = true});
    check_tensors(*read, as_bytes(archive));
    check_same(file, *read);
  }
}

std::string zip(const std::vector<Record>& records) {
  ZipWriter writer;
  std::vector<uint32_t> crcs;
  for (const Record& record : records) {
    writer.add(record.name, record.contents.size());
    crcs.push_back(crc32(as_bytes(record.contents)));
  }
  std::string out(writer.directory_offset(), '\0');
  for (size_t i = 0; i < records.size(); ++i) {
    const std::string header = writer.local_header(i, crcs[i]);
    std::copy(header.begin(), header.end(),
              out.begin() + static_cast<std::ptrdiff_t>(writer.header_offset(i)));
    std::copy(records[i].contents.begin(), records[i].contents.end(),
              out.begin() + static_cast<std::ptrdiff_t>(writer.data_offset(i)));
  }
  return out + writer.directory(crcs);
}

std::string mutate(std::string text, size_t max_size) {
  const size_t size = text.size();
  if (max_size == 0) return {};
  text.resize(std::max(size, max_size));
  text.resize(LLVMFuzzerMutate(reinterpret_cast<uint8_t*>(text.data()), size, text.size()));
  return text;
}

size_t give(const std::string& input, uint8_t* data, size_t max_size) {
  const size_t size = std::min(input.size(), max_size);
  std::memcpy(data, input.data(), size);
  return size;
}

Folder::Folder() {
  for (const char* parent : {"/dev/shm", "/tmp"}) {
    std::string name = std::string(parent) + "/jit-flux-fuzz-XXXXXX";
    if (::mkdtemp(name.data()) != nullptr) {
      path_ = name;
      return;
    }
  }
  broken("there is a folder for files");
}

Folder::~Folder() {
  clear();
  ::rmdir(path_.c_str());
}

void Folder::write(const std::string& name, std::string_view content) {
  for (const auto& [known, written] : files_) {
    if (known == name && written == content) return;
  }
  std::erase_if(files_, [&](const auto& file) { return file.first == name; });
  const std::string path = path_ + "/" + name;
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) return;  // a name that no file can have
  const ssize_t written = ::write(fd, content.data(), content.size());
  ::close(fd);
  expect(written == static_cast<ssize_t>(content.size()), "a file is written");
  files_.emplace_back(name, content);
}

void Folder::clear() {
  for (const auto& [name, content] : files_) ::unlink((path_ + "/" + name).c_str());
  files_.clear();
}

}  // namespace jitflux::fuzz
