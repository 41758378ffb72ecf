// A file written beside its final place and renamed there once complete, so that whoever looks at
// the final path sees the old content or the new one, never half of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

namespace jitflux {

// Every failure is Error kWriteFailed with details path (the final one) and reason.
class PartialFile {
 public:
  // Opens `<target>.partial`, creating it or keeping what an earlier run left there, and locks it
  // against other processes. In its place, a symbolic link, a file with a second name, and one of
  // another user in a folder that everyone may write are refused.
  explicit PartialFile(std::string target);
  ~PartialFile();

  PartialFile(const PartialFile&) = delete;
  PartialFile& operator=(const PartialFile&) = delete;

  const std::string& path() const { return path_; }
  uint64_t size() const;

  // Empties the file, then reserves all the space it will need: a full disk shows before the work.
  void restart(uint64_t final_size);
  void write(uint64_t offset, std::span<const std::byte> bytes);
  void sync();  // what was written survives a power failure

  void commit();   // syncs and renames to the target
  void discard();  // removes it; the target stays as it was

 private:
  [[noreturn]] void fail_write(int error) const;

  std::string target_;
  std::string path_;
  int fd_ = -1;
};

// Replaces a small file atomically and durably, through `<path>.new`, which must be the caller's
// alone. Throws kWriteFailed.
void replace_file(const std::string& path, const std::string& text);

// Removes such a file, and what a killed process has left of it.
void remove_file(const std::string& path);

// The text of a file that replace_file has written; nothing if it is absent, larger than `limit`
// bytes, unreadable, or what PartialFile refuses. Copied: a mapping ends the process when the file
// is cut short.
std::optional<std::string> read_own_file(const std::string& path, size_t limit);

}  // namespace jitflux
