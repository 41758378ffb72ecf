// What the libFuzzer targets of this folder share: typed outcomes, and what must hold of whatever a
// reader accepts. A broken property ends the process, as a crash does, so that libFuzzer keeps the
// input.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "weights/input_file.h"
#include "weights/weight_file.h"

extern "C" {
// Of libFuzzer: changes `data` in place, in at most `max_size` bytes; returns the new size.
size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);
}

namespace jitflux::fuzz {

using Bytes = std::span<const std::byte>;

inline Bytes as_bytes(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const std::byte*>(data), size};
}
inline Bytes as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

[[noreturn]] void broken(const std::string& property);
inline void expect(bool holds, const char* property) {
  if (!holds) broken(property);
}

// The message of an error is fit for a terminal, and not longer than anybody reads.
void check_error(const Error& error, std::initializer_list<const char*> codes);

// Runs `body`. A refusal must be an Error of one of these codes; anything else that is thrown is a
// finding. Returns "<code>: <message>", empty if nothing was thrown.
template <class Body>
std::string outcome(std::initializer_list<const char*> codes, Body body) {
  try {
    body();
  } catch (const Error& error) {
    check_error(error, codes);
    return error.code() + ": " + error.what();
  } catch (const std::exception& error) {
    broken(std::string("thrown without a code: ") + error.what());
  }
  return {};
}

// A copy of an input whose address is `shift` bytes past a multiple of 64: the same bytes read at
// another place of the process. Reading behind its end is seen, too.
class Moved {
 public:
  Moved(Bytes bytes, size_t shift);
  Bytes bytes() const;

 private:
  std::unique_ptr<std::byte[]> buffer_;
  std::byte* data_;
  size_t size_;
};

// What must hold of a file that a reader accepted: names, shapes and strides within their limits,
// all of every tensor readable and aligned, found by its name. Tensors of one safetensors file do
// not overlap; those of an archive are not many times larger than `file`, which is empty if there
// are several.
void check_tensors(const WeightFile& file, Bytes bytes);

// Equal names, types, shapes and contents, in any order.
void check_same(const WeightFile& a, const WeightFile& b);

// Written as safetensors and as a TorchScript archive the file is read back as it was, and what was
// read back is written to the same bytes. Tensors larger than a megabyte together are left out.
void check_written(const WeightFile& file);

// The bytes of a weight file with these contents, one for each spec.
class FileImage {
 public:
  static std::string safetensors(const WeightFile& file);
  static std::string torchscript(const WeightFile& file);  // throws Error for unfit names
};

// A ZIP archive of stored records, as PyTorch writes it.
struct Record {
  std::string name;
  std::string contents;
};
std::string zip(const std::vector<Record>& records);

// Of a seed given to LLVMFuzzerCustomMutator.
class Random {
 public:
  explicit Random(unsigned seed) : state_(seed * 2654435761u + 1) {}
  uint32_t below(uint32_t limit) {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return static_cast<uint32_t>(state_ >> 16) % limit;
  }

 private:
  uint64_t state_;
};

// LLVMFuzzerMutate of a string, which may grow to `max_size`.
std::string mutate(std::string text, size_t max_size);

// Copies a new input into libFuzzer's buffer; one that does not fit is cut.
size_t give(const std::string& input, uint8_t* data, size_t max_size);

// A folder in memory (/dev/shm) or, where there is none, in the temporary one; removed at exit.
class Folder {
 public:
  Folder();
  ~Folder();
  const std::string& path() const { return path_; }
  // Writes a file unless it has this content already.
  void write(const std::string& name, std::string_view content);
  void clear();

 private:
  std::string path_;
  std::vector<std::pair<std::string, std::string>> files_;
};

}  // namespace jitflux::fuzz
