// A file mapped read-only into memory (POSIX mmap), or bytes that are in memory already.
//
// Pages are shared with other processes and read on first touch. A file that another process
// truncates while it is mapped raises SIGBUS on access: replace weight files by renaming, never by
// writing into them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace jitflux {

class MappedFile {
 public:
  // Throws Error: kFileNotFound (absent, unreadable, a directory or a device), kOutOfMemory (no
  // address space). An empty file maps to an empty span.
  explicit MappedFile(const std::string& path);
  // Bytes that somebody else owns and that outlive it, read as the content of a file. `path` only
  // words the errors.
  MappedFile(std::string path, std::span<const std::byte> bytes);
  ~MappedFile();

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  int64_t modified() const { return modified_; }  // when it was opened; nanoseconds since 1970

  // Gives back the memory of the pages that hold these bytes; they are read again when touched
  // again. Bytes outside the mapping are ignored.
  void release(std::span<const std::byte> bytes) const;

 private:
  std::string path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  int64_t modified_ = 0;
  bool mapped_ = false;  // by us, which ends with us
};

}  // namespace jitflux
