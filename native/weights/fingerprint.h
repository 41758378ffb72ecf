// What tells weight files apart without reading all of them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "weights/weight_file.h"

namespace jitflux {

constexpr uint64_t kFnvStart = 0xCBF29CE484222325;

// FNV-1a of 64 bits, going on from `hash`. Against chance, not against anybody.
uint64_t fnv1a(std::string_view bytes, uint64_t hash = kFnvStart);

// 16 digits.
std::string hexadecimal(uint64_t value);

// Of the sizes of the files that hold the tensors, and of samples of each: 64 KiB at the beginning,
// in the middle and at the end. Throws kWeightsChanged and whatever reading does.
std::string fingerprint_of(const WeightFile& file);

}  // namespace jitflux
