#include "weights/output_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <system_error>
#include <utility>

#include "base/error.h"

namespace jitflux {
namespace {

[[noreturn]] void write_failed(const std::string& path, const std::string& reason) {
  throw Error(error_code::kWriteFailed, "Cannot write " + path + ": " + reason,
              {{"path", path}, {"reason", reason}});
}

// In the words of src/files/write-file.ts.
std::string reason_of(int error) {
  switch (error) {
    case ENOENT:
      return "the directory does not exist";
    case ENOTDIR:
      return "a part of the path is not a directory";
    case EACCES:
      return "permission denied";
    case EROFS:
      return "the file system is read-only";
    case ENOSPC:
      return "no space left on the device";
    case EDQUOT:
      return "the disk quota is used up";
    case EFBIG:
      return "the file would be larger than the system allows";
    case ELOOP:
      return "its .partial file is a symbolic link";
    default:
      return std::generic_category().message(error);
  }
}

void write_all(int fd, uint64_t offset, std::span<const std::byte> bytes, int* error) {
  *error = 0;
  while (!bytes.empty()) {
    const ssize_t count = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (count < 0) {
      if (errno == EINTR) continue;
      *error = errno;
      return;
    }
    offset += static_cast<uint64_t>(count);
    bytes = bytes.subspan(static_cast<size_t>(count));
  }
}

// Makes a rename in the folder durable. Some file systems cannot, which is no failure.
void sync_folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  ::fsync(fd);
  ::close(fd);
}

}  // namespace

PartialFile::PartialFile(std::string target)
    : target_(std::move(target)), path_(target_ + ".partial") {
  if (target_.find('\0') != std::string::npos) {
    write_failed("the output", "its name contains a NUL character");
  }
  // O_NONBLOCK: a FIFO in its place must fail the test below, not wait for a reader.
  fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
  if (fd_ < 0) fail_write(errno);
  const auto refuse = [this](const char* reason) {
    ::close(std::exchange(fd_, -1));
    write_failed(target_, reason);
  };
  struct stat opened {};
  if (::fstat(fd_, &opened) != 0 || !S_ISREG(opened.st_mode)) {
    refuse("its .partial file is not a regular file");
  }
  const bool locked = ::flock(fd_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  // The other process may have renamed or removed it since it was opened here.
  struct stat named {};
  if (locked || ::lstat(path_.c_str(), &named) != 0 || named.st_ino != opened.st_ino) {
    refuse("another process is writing it");
  }
}

PartialFile::~PartialFile() {
  if (fd_ >= 0) ::close(fd_);
}

void PartialFile::fail_write(int error) const { write_failed(target_, reason_of(error)); }

uint64_t PartialFile::size() const {
  struct stat info {};
  return ::fstat(fd_, &info) == 0 ? static_cast<uint64_t>(info.st_size) : 0;
}

void PartialFile::restart(uint64_t final_size) {
  if (::ftruncate(fd_, 0) != 0) fail_write(errno);
  if (final_size == 0) return;
  while (::fallocate(fd_, 0, 0, static_cast<off_t>(final_size)) != 0) {
    if (errno == EINTR) continue;
    if (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL) return;  // found out on the way
    fail_write(errno);
  }
}

void PartialFile::write(uint64_t offset, std::span<const std::byte> bytes) {
  int error = 0;
  write_all(fd_, offset, bytes, &error);
  if (error != 0) fail_write(error);
}

void PartialFile::sync() {
  if (::fdatasync(fd_) != 0) fail_write(errno);
}

void PartialFile::commit() {
  if (::fsync(fd_) != 0) fail_write(errno);
  if (::rename(path_.c_str(), target_.c_str()) != 0) fail_write(errno);
  sync_folder_of(target_);
}

void PartialFile::discard() { ::unlink(path_.c_str()); }

void replace_file(const std::string& path, const std::string& text) {
  const std::string temporary = path + ".new";
  const int fd = ::open(temporary.c_str(),
                        O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
  if (fd < 0) write_failed(path, reason_of(errno));
  int error = 0;
  write_all(fd, 0, std::as_bytes(std::span(text)), &error);
  if (error == 0 && ::fsync(fd) != 0) error = errno;
  ::close(fd);
  if (error == 0 && ::rename(temporary.c_str(), path.c_str()) != 0) error = errno;
  if (error != 0) {
    ::unlink(temporary.c_str());
    write_failed(path, reason_of(error));
  }
}

}  // namespace jitflux
