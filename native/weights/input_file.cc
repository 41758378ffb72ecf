#include "weights/input_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <system_error>
#include <utility>

#include "weights/file_mapping.h"
#include "weights/reader_util.h"

namespace jitflux {
namespace {

std::string reason_of(int error) { return std::generic_category().message(error); }

int64_t modified_time(const struct stat& info) {
  return int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec;
}

[[noreturn]] void changed(const std::string& path, const std::string& what) {
  fail(error_code::kWeightsChanged, path,
       what + "; load the model again, and replace weight files by renaming only");
}

}  // namespace

InputFile::InputFile(const std::string& path) : path_(path) {
  // open() stops at a NUL, so a name with one would open another file than the one checked.
  if (path.find('\0') != std::string::npos) {
    throw Error(error_code::kFileNotFound, "the file name contains a NUL character");
  }
  // O_NONBLOCK: opening a FIFO must fail the test below, not wait for a writer.
  do {
    fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  } while (fd_ < 0 && errno == EINTR);
  if (fd_ < 0) {
    const int error = errno;
    fail(error_code::kFileNotFound, path, "cannot open the file (" + reason_of(error) + ")");
  }
  // The destructor does not run if this constructor throws.
  const auto refuse = [&](const std::string& reason) {
    close();
    fail(error_code::kFileNotFound, path, reason);
  };
  struct stat info {};
  if (::fstat(fd_, &info) != 0) {
    const int error = errno;
    refuse("cannot examine the file (" + reason_of(error) + ")");
  }
  if (!S_ISREG(info.st_mode)) {
    refuse(S_ISDIR(info.st_mode) ? "is a directory, not a file" : "is not a regular file");
  }
  modified_ = modified_time(info);
  size_ = static_cast<uint64_t>(std::max<off_t>(info.st_size, 0));
}

InputFile::InputFile(std::string path, std::span<const std::byte> bytes)
    : path_(std::move(path)), memory_(bytes.data()), size_(bytes.size()) {}

InputFile::~InputFile() {
  mapping_ = nullptr;
  close();
}

void InputFile::close() const {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

void InputFile::read(uint64_t offset, std::span<std::byte> to) const {
  if (memory_ != nullptr) {
    if (offset > size_ || to.size() > size_ - offset) changed(path_, "it has fewer bytes");
    std::copy_n(memory_ + offset, to.size(), to.data());
    return;
  }
  while (!to.empty()) {
    const ssize_t count = ::pread(fd_, to.data(), to.size(), static_cast<off_t>(offset));
    if (count > 0) {
      offset += static_cast<uint64_t>(count);
      to = to.subspan(static_cast<size_t>(count));
      continue;
    }
    if (count == 0) changed(path_, "the file was truncated after it had been opened");
    const int error = errno;
    if (error == EINTR) continue;
    // The file is gone from its server.
    if (error == ESTALE) changed(path_, "the file was replaced after it had been opened");
    fail(error == ENOMEM ? error_code::kOutOfMemory : error_code::kFileNotFound, path_,
         "cannot read the file (" + reason_of(error) + ")");
  }
}

std::vector<std::byte> InputFile::read(uint64_t offset, uint64_t count) const {
  std::vector<std::byte> bytes(count);
  read(offset, bytes);
  return bytes;
}

void InputFile::expect_unchanged() const {
  if (mapping_ != nullptr && mapping_->damaged()) {
    changed(path_, "the file was truncated, or could not be read, while it was in use");
  }
  if (memory_ != nullptr) return;
  struct stat info {};
  if (::fstat(fd_, &info) != 0) {
    const int error = errno;
    changed(path_, "the file cannot be examined any more (" + reason_of(error) + ")");
  }
  if (static_cast<uint64_t>(info.st_size) != size_) {
    changed(path_, "the file had " + std::to_string(size_) + " bytes when it was opened and has " +
                       std::to_string(info.st_size) + " now");
  }
  if (modified_time(info) != modified_) {
    changed(path_, "the file was modified after it had been opened");
  }
}

const std::byte* InputFile::map() const {
  if (memory_ != nullptr) return memory_;
  if (mapping_ == nullptr) {
    if (size_ == 0 || size_ > std::numeric_limits<size_t>::max() / 2) {
      fail(error_code::kOutOfMemory, path_, "the file is empty or too large to map");
    }
    mapping_ = std::make_unique<FileMapping>(fd_, static_cast<size_t>(size_), path_);
  }
  return mapping_->data();
}

void InputFile::release(uint64_t offset, uint64_t count) const {
  if (mapping_ != nullptr) mapping_->release(offset, count);
}

InputFile::InputFile(InputFile&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      memory_(std::exchange(other.memory_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      modified_(other.modified_),
      mapping_(std::move(other.mapping_)) {}

InputFile& InputFile::operator=(InputFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  std::swap(memory_, other.memory_);
  std::swap(size_, other.size_);
  std::swap(modified_, other.modified_);
  std::swap(mapping_, other.mapping_);
  return *this;
}

}  // namespace jitflux
