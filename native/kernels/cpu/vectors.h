// Vectors of the instruction set's width, for the kernels that GCC does not vectorise by itself (it
// gives up where loads widen and stores narrow). Sources of native/kernels/cpu only.
#pragma once

#include <type_traits>

#include "kernels/cpu/vector_math.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace jitflux::kernels::JIT_FLUX_ISA_NAMESPACE {

// In floats.
#if defined(__AVX512F__)
static constexpr int64_t kWidth = 16;
#elif defined(__AVX2__)
static constexpr int64_t kWidth = 8;
#else
static constexpr int64_t kWidth = 4;
#endif

using Vector = float __attribute__((vector_size(kWidth * sizeof(float)), aligned(4), may_alias));
using IntVector = int32_t __attribute__((vector_size(kWidth * sizeof(int32_t))));
using UintVector = uint32_t __attribute__((vector_size(kWidth * sizeof(uint32_t))));
using HalfVector =
    uint16_t __attribute__((vector_size(kWidth * sizeof(uint16_t)), aligned(2), may_alias));
using ByteVector = uint8_t __attribute__((vector_size(kWidth), aligned(1), may_alias));

static inline Vector broadcast(float value) { return value - Vector{}; }

template <typename To, typename From>
static inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

static inline Vector load_vector(const float* x) { return *reinterpret_cast<const Vector*>(x); }
static inline Vector load_vector(const uint16_t* x) {
  const auto bits = __builtin_convertvector(*reinterpret_cast<const HalfVector*>(x), UintVector);
  return bit_cast<Vector>(bits << 16);
}

static inline void store_vector(float* out, Vector value) {
  *reinterpret_cast<Vector*>(out) = value;
}
// Rounds as store() of vector_math.h does; the CPU's own conversion flushes subnormal numbers.
static inline void store_vector(uint16_t* out, Vector value) {
#if defined(__AVX512BF16__)
  const __m256bh half = _mm512_cvtneps_pbh(bit_cast<__m512>(value));
  std::memcpy(out, &half, sizeof half);
#else
  const auto bits = bit_cast<UintVector>(value);
  const UintVector rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  *reinterpret_cast<HalfVector*>(out) = __builtin_convertvector(rounded, HalfVector);
#endif
}
static inline void store_bytes(uint8_t* out, UintVector value) {
  *reinterpret_cast<ByteVector*>(out) = __builtin_convertvector(value, ByteVector);
}

// The first `count` of a vector: `count` is kWidth but for the end of a row, where the rest reads
// as zero and is not written.
template <typename T>
static inline Vector load_part(const T* x, int64_t count) {
  if (count == kWidth) return load_vector(x);
  T part[kWidth] = {};
  std::memcpy(part, x, static_cast<size_t>(count) * sizeof(T));
  return load_vector(part);
}
template <typename T>
static inline void store_part(T* out, int64_t count, Vector value) {
  if (count == kWidth) return store_vector(out, value);
  T part[kWidth];
  store_vector(part, value);
  std::memcpy(out, part, static_cast<size_t>(count) * sizeof(T));
}

// Calls body(first column, count) for the vectors of a row.
template <typename Body>
static inline void for_columns(int64_t d, const Body& body) {
  int64_t i = 0;
  for (; i + kWidth <= d; i += kWidth) body(i, kWidth);
  if (i < d) body(i, d - i);
}

static inline float sum_of(Vector v) {
  float sum = 0.0f;
  for (int64_t i = 0; i < kWidth; ++i) sum += v[i];
  return sum;
}
static inline float max_of(Vector v) {
  float highest = v[0];
  for (int64_t i = 1; i < kWidth; ++i) highest = v[i] > highest ? v[i] : highest;
  return highest;
}

// exp_approx of vector_math.h, lane by lane.
static inline Vector exp_vector(Vector x) {
  const Vector magic = broadcast(12582912.0f);
  x = x > 88.0f ? broadcast(88.0f) : x;
  x = x < -87.0f ? broadcast(-87.0f) : x;
  const Vector shifted = x * 1.44269504088896341f + magic;
  const Vector n = shifted - magic;
  Vector r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  Vector p = broadcast(1.3981999507e-3f);
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  // shifted's low bits are n: 2^n by its exponent field.
  const auto exponent = bit_cast<UintVector>(shifted) + 127u;
  return p * bit_cast<Vector>(exponent << 23);
}

}  // namespace jitflux::kernels::JIT_FLUX_ISA_NAMESPACE
