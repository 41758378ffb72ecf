// Scalar helpers written so that GCC vectorises loops over them. Everything is static or a template
// in the ISA's own namespace: an inline function shared between objects compiled for different
// instruction sets could be merged by the linker into the widest one.
#pragma once

#include <cstdint>
#include <cstring>

#ifndef JIT_FLUX_ISA
#error "JIT_FLUX_ISA names the instruction set this file is compiled for"
#endif
#define JIT_FLUX_JOIN_(a, b) a##b
#define JIT_FLUX_JOIN(a, b) JIT_FLUX_JOIN_(a, b)
#define JIT_FLUX_ISA_NAMESPACE JIT_FLUX_JOIN(isa_, JIT_FLUX_ISA)
#define JIT_FLUX_STRING_(a) #a
#define JIT_FLUX_STRING(a) JIT_FLUX_STRING_(a)

namespace jitflux::kernels::JIT_FLUX_ISA_NAMESPACE {

static inline float bits_to_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

static inline uint32_t float_to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

static inline float load(float value) { return value; }
static inline float load(uint16_t bfloat16) {
  return bits_to_float(static_cast<uint32_t>(bfloat16) << 16);
}

static inline void store(float* out, float value) { *out = value; }
// Round to nearest, ties to even; NaN stays NaN (its mantissa never rounds up to infinity because
// quiet NaNs of arithmetic have the top mantissa bit set).
static inline void store(uint16_t* out, float value) {
  const uint32_t bits = float_to_bits(value);
  *out = static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

// e^x by range reduction to [-ln2/2, ln2/2] and a degree-6 polynomial; relative error < 3e-7 over
// the whole range, saturating instead of overflowing.
static inline float exp_approx(float x) {
  x = x > 88.0f ? 88.0f : x;
  x = x < -87.0f ? -87.0f : x;
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float shifted = x * 1.44269504088896341f + magic;
  const float n = shifted - magic;
  float r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  float p = 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t exponent = static_cast<int32_t>(n);
  return p * bits_to_float(static_cast<uint32_t>(exponent + 127) << 23);
}

}  // namespace jitflux::kernels::JIT_FLUX_ISA_NAMESPACE
