#include "weights/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <system_error>
#include <utility>

#include "base/memory_use.h"
#include "weights/reader_util.h"

namespace jitflux {
namespace {

std::string reason_of(int error) { return std::generic_category().message(error); }

struct Descriptor {
  int fd = -1;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

}  // namespace

MappedFile::MappedFile(const std::string& path) : path_(path) {
  // open() stops at a NUL, so a name with one would open another file than the one checked.
  if (path.find('\0') != std::string::npos) {
    throw Error(error_code::kFileNotFound, "the file name contains a NUL character");
  }
  Descriptor file;
  // O_NONBLOCK: opening a FIFO must fail the test below, not wait for a writer.
  do {
    file.fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  } while (file.fd < 0 && errno == EINTR);
  if (file.fd < 0) {
    const int error = errno;
    fail(error_code::kFileNotFound, path, "cannot open the file (" + reason_of(error) + ")");
  }
  struct stat info {};
  if (::fstat(file.fd, &info) != 0) {
    const int error = errno;
    fail(error_code::kFileNotFound, path, "cannot examine the file (" + reason_of(error) + ")");
  }
  if (!S_ISREG(info.st_mode)) {
    fail(error_code::kFileNotFound, path,
         S_ISDIR(info.st_mode) ? "is a directory, not a file" : "is not a regular file");
  }
  modified_ = int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec;
  if (info.st_size <= 0) return;
  if (static_cast<uintmax_t>(info.st_size) > std::numeric_limits<size_t>::max() / 2) {
    fail(error_code::kOutOfMemory, path, "the file is too large to map");
  }
  size_ = static_cast<size_t>(info.st_size);
  void* mapping = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (mapping == MAP_FAILED) {
    const int error = errno;
    size_ = 0;
    fail(error == ENOMEM ? error_code::kOutOfMemory : error_code::kFileNotFound, path,
         "cannot map the file (" + reason_of(error) + ")");
  }
  data_ = static_cast<const std::byte*>(mapping);
  mapped_ = true;
  mapped_memory.add(size_);
}

MappedFile::MappedFile(std::string path, std::span<const std::byte> bytes)
    : path_(std::move(path)), data_(bytes.data()), size_(bytes.size()) {}

MappedFile::~MappedFile() {
  if (!mapped_) return;
  ::munmap(const_cast<std::byte*>(data_), size_);
  mapped_memory.subtract(size_);
}

void MappedFile::release(std::span<const std::byte> bytes) const {
  const std::byte* begin = std::max(bytes.data(), data_);
  const std::byte* end = std::min(bytes.data() + bytes.size(), data_ + size_);
  if (!mapped_ || begin >= end) return;
  // Neighbours that share the first and last page lose nothing: the mapping is never written to.
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto first = reinterpret_cast<uintptr_t>(begin) & ~(page - 1);
  ::madvise(reinterpret_cast<void*>(first), reinterpret_cast<uintptr_t>(end) - first,
            MADV_DONTNEED);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      modified_(other.modified_),
      mapped_(std::exchange(other.mapped_, false)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(modified_, other.modified_);
  std::swap(mapped_, other.mapped_);
  return *this;
}

}  // namespace jitflux
