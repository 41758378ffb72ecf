// A file mapped read-only into memory (POSIX mmap), and what happens where the file no longer backs
// it.
//
// Another process may truncate a mapped file, or its server may go away. An access to such a page
// is a SIGBUS. A handler of ours, installed with the first mapping, replaces the pages from there
// to the end of the mapping by zeros and marks the mapping as damaged: the computation goes on, and
// whoever uses the mapping asks damaged() before it lets a result out. A SIGBUS of any other origin
// goes to the handler that was there before. docs/adr/0016-sigbus-of-mapped-weights.md has the
// reasons.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace jitflux {

struct GuardedRange;

class FileMapping {
 public:
  // The first `size` > 0 bytes of an open file, which may be closed afterwards. Throws Error:
  // kOutOfMemory (no address space), kFileNotFound (a file system without mappings).
  FileMapping(int fd, size_t size, const std::string& path);
  ~FileMapping();
  FileMapping(const FileMapping&) = delete;
  FileMapping& operator=(const FileMapping&) = delete;

  const std::byte* data() const { return data_; }
  // Whether a page was accessed that the file did not back.
  bool damaged() const;

  // Gives back the memory of the pages that hold these bytes; they are read again when touched
  // again. Bytes outside the mapping are ignored.
  void release(uint64_t offset, uint64_t count) const;

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  GuardedRange* range_ = nullptr;
};

}  // namespace jitflux
