#include "weights/output_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <system_error>
#include <utility>

#include "base/error.h"

namespace jitflux {
namespace {

constexpr char kNew[] = ".new";

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
      return "a file beside it is a symbolic link";
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

std::string folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash + 1);
}

template <class Call>
auto without_interrupts(Call call) {
  for (;;) {
    const auto result = call();
    if (result >= 0 || errno != EINTR) return result;
  }
}

// Makes a rename in the folder durable. Some file systems cannot, which is no failure.
void sync_folder_of(const std::string& path) {
  const int fd = ::open(folder_of(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  ::fsync(fd);
  ::close(fd);
}

// What is wrong with a file that was there before; null if it may be written or believed. Its name
// is predictable: somebody else may have put it there, by a second name of a file of ours too.
const char* foreign(int fd, const std::string& path) {
  struct stat file {};
  struct stat folder {};
  if (::fstat(fd, &file) != 0 || !S_ISREG(file.st_mode)) return "is not a regular file";
  if (file.st_nlink > 1) return "has another name (a hard link)";
  if (::stat(folder_of(path).c_str(), &folder) != 0) return "is in a folder that cannot be read";
  // As the kernel's protected_regular: elsewhere, only those can make files who are trusted with
  // the folder anyway, and network file systems may show owners as they like.
  const bool is_public = (folder.st_mode & S_IWOTH) != 0;
  if (is_public && file.st_uid != ::geteuid() && file.st_uid != folder.st_uid) {
    return "belongs to another user";
  }
  return nullptr;
}

}  // namespace

PartialFile::PartialFile(std::string target)
    : target_(std::move(target)), path_(target_ + ".partial") {
  if (target_.find('\0') != std::string::npos) {
    write_failed("the output", "its name contains a NUL character");
  }
  // O_NONBLOCK: a FIFO in its place must fail the test below, not wait for a reader.
  constexpr int kFlags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
  const auto open_file = [this](int flags) {
    return without_interrupts([&] { return ::open(path_.c_str(), kFlags | flags, 0666); });
  };
  fd_ = open_file(O_CREAT | O_EXCL);
  const bool existed = fd_ < 0 && errno == EEXIST;
  if (existed) {
    fd_ = open_file(0);
    if (fd_ < 0 && errno == ENOENT) fd_ = open_file(O_CREAT | O_EXCL);  // finished this moment
  }
  if (fd_ < 0) fail_write(errno);
  const auto refuse = [this](const std::string& reason) {
    ::close(std::exchange(fd_, -1));
    write_failed(target_, reason);
  };
  if (existed) {
    if (const char* problem = foreign(fd_, path_)) {
      refuse(std::string("its .partial file ") + problem);
    }
  }
  const bool locked = ::flock(fd_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  // The other process may have renamed or removed it since it was opened here.
  struct stat opened {};
  struct stat named {};
  if (locked || ::fstat(fd_, &opened) != 0 || ::lstat(path_.c_str(), &named) != 0 ||
      named.st_ino != opened.st_ino || named.st_dev != opened.st_dev) {
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
  if (without_interrupts([this] { return ::ftruncate(fd_, 0); }) != 0) fail_write(errno);
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
  if (without_interrupts([this] { return ::fdatasync(fd_); }) != 0) fail_write(errno);
}

void PartialFile::commit() {
  if (without_interrupts([this] { return ::fsync(fd_); }) != 0) fail_write(errno);
  if (::rename(path_.c_str(), target_.c_str()) != 0) fail_write(errno);
  sync_folder_of(target_);
}

void PartialFile::discard() { ::unlink(path_.c_str()); }

void replace_file(const std::string& path, const std::string& text) {
  const std::string temporary = path + kNew;
  ::unlink(temporary.c_str());  // of a process that was killed
  const int fd = without_interrupts([&] {
    return ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
  });
  if (fd < 0) write_failed(path, reason_of(errno));
  int error = 0;
  write_all(fd, 0, std::as_bytes(std::span(text)), &error);
  if (error == 0 && without_interrupts([&] { return ::fsync(fd); }) != 0) error = errno;
  ::close(fd);
  if (error == 0 && ::rename(temporary.c_str(), path.c_str()) != 0) error = errno;
  if (error != 0) {
    ::unlink(temporary.c_str());
    write_failed(path, reason_of(error));
  }
}

void remove_file(const std::string& path) {
  ::unlink(path.c_str());
  ::unlink((path + kNew).c_str());
}

std::optional<std::string> read_own_file(const std::string& path, size_t limit) {
  const int fd = without_interrupts(
      [&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK); });
  if (fd < 0) return std::nullopt;
  std::optional<std::string> text;
  if (foreign(fd, path) == nullptr) {
    text.emplace();
    std::array<char, 65536> piece;
    for (;;) {
      const ssize_t count =
          without_interrupts([&] { return ::read(fd, piece.data(), piece.size()); });
      if (count == 0) break;
      text->append(piece.data(), static_cast<size_t>(std::max<ssize_t>(count, 0)));
      if (count < 0 || text->size() > limit) {
        text.reset();
        break;
      }
    }
  }
  ::close(fd);
  return text;
}

}  // namespace jitflux
