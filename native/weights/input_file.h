// A regular file that weights are read from.
//
// It is read by pread(2), which reports a file that another process has truncated as a short read;
// an access to a mapping of it would be a SIGBUS. Tensors that are used in place are mapped: map()
// says what is left of that hazard. The descriptor is held, so that what was checked is what is
// read, also if another file takes the name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace jitflux {

class FileMapping;

class InputFile {
 public:
  // Throws Error kFileNotFound: absent, unreadable, no regular file.
  explicit InputFile(const std::string& path);
  // Bytes that somebody else owns and that outlive it, read as the content of a file. `path` only
  // words the errors.
  InputFile(std::string path, std::span<const std::byte> bytes);
  ~InputFile();

  InputFile(InputFile&& other) noexcept;
  InputFile& operator=(InputFile&& other) noexcept;
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  const std::string& path() const { return path_; }
  uint64_t size() const { return size_; }         // when it was opened
  int64_t modified() const { return modified_; }  // when it was opened; nanoseconds since 1970

  // Fills `to` with the bytes from `offset` on. Throws Error: kWeightsChanged (fewer are left),
  // kFileNotFound (the system cannot read it any more).
  void read(uint64_t offset, std::span<std::byte> to) const;
  std::vector<std::byte> read(uint64_t offset, uint64_t count) const;

  // Throws Error kWeightsChanged if the file is not as it was when it was opened: size, time of
  // modification, or a mapped page that it could not back.
  void expect_unchanged() const;

  // The whole file in memory, from the first call on and as long as this object lives. Throws Error
  // kOutOfMemory (no address space). Pages are shared with other processes and read on first touch.
  // Where the file has been truncated they read as zeros, and expect_unchanged() then throws
  // (file_mapping.h). On one thread at a time.
  const std::byte* map() const;
  bool mapped() const { return mapping_ != nullptr; }

  // Gives back the memory of the mapped pages that hold these bytes; they are read again when
  // touched again.
  void release(uint64_t offset, uint64_t count) const;

  // Nothing will be read any more. Not to be called on a mapped file.
  void close() const;

 private:
  std::string path_;
  mutable int fd_ = -1;
  const std::byte* memory_ = nullptr;  // instead of a descriptor
  uint64_t size_ = 0;
  int64_t modified_ = 0;
  mutable std::unique_ptr<FileMapping> mapping_;
};

}  // namespace jitflux
