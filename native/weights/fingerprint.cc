#include "weights/fingerprint.h"

#include <algorithm>
#include <set>

#include "weights/input_file.h"
#include "weights/reader_util.h"

namespace jitflux {

namespace {

constexpr uint64_t kSampleBytes = uint64_t{64} << 10;

}  // namespace

uint64_t fnv1a(std::string_view bytes, uint64_t hash) {
  for (const char c : bytes) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3;
  return hash;
}

std::string hexadecimal(uint64_t value) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  for (int shift = 60; shift >= 0; shift -= 4) out += kDigits[(value >> shift) & 15];
  return out;
}

std::string fingerprint_of(const WeightFile& file) {
  uint64_t hash = kFnvStart;
  for (const InputFile* input : file.inputs()) {
    const uint64_t size = input->size();
    hash = fnv1a(std::to_string(size) + "\n", hash);
    const uint64_t count = std::min(size, kSampleBytes);
    for (const uint64_t start : std::set<uint64_t>{0, (size - count) / 2, size - count}) {
      hash = fnv1a(as_text(input->read(start, count)), hash);
    }
  }
  return hexadecimal(hash);
}

}  // namespace jitflux
