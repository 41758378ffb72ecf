#include "weights/float_conversion.h"

#include <algorithm>
#include <bit>
#include <cstdint>

namespace jitflux {
namespace {

// Element types by their bits. The arithmetic is branch-free so that compilers vectorise it.
struct Float32 {
  using Bits = float;
  using Integer = uint32_t;
  static constexpr Integer kExponent = 0x7F800000;
  static float load(float value) { return value; }
  static float store(float value) { return value; }
};

struct Float64 {
  using Bits = double;
  using Integer = uint64_t;
  static constexpr Integer kExponent = Integer{0x7FF} << 52;
  static float load(double value) { return static_cast<float>(value); }
};

struct BFloat16 {
  using Bits = uint16_t;
  using Integer = uint16_t;
  static constexpr Integer kExponent = 0x7F80;
  static float load(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }
  static uint16_t store(float value) {
    const auto bits = std::bit_cast<uint32_t>(value);
    const uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
    const uint32_t nan = (bits >> 16) | 0x40;
    return static_cast<uint16_t>((bits & 0x7FFFFFFF) > 0x7F800000 ? nan : rounded);
  }
};

struct Float16 {
  using Bits = uint16_t;
  using Integer = uint16_t;
  static constexpr Integer kExponent = 0x7C00;
  static float load(uint16_t half) {
    const uint32_t sign = (uint32_t{half} & 0x8000) << 16;
    const uint32_t magnitude = uint32_t{half} & 0x7FFF;
    const uint32_t normal = (magnitude << 13) + (uint32_t{127 - 15} << 23);
    // Exact, and normal in float32: flush-to-zero modes do not touch it.
    const auto subnormal =
        std::bit_cast<uint32_t>(static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f);
    const uint32_t quiet = magnitude > 0x7C00 ? 0x400000 : 0;
    const uint32_t special = 0x7F800000 | ((magnitude & 0x3FF) << 13) | quiet;
    const uint32_t finite = magnitude < 0x400 ? subnormal : normal;
    return std::bit_cast<float>(sign | (magnitude >= 0x7C00 ? special : finite));
  }
  static uint16_t store(float value) {
    const auto bits = std::bit_cast<uint32_t>(value);
    const uint32_t sign = (bits >> 16) & 0x8000;
    const uint32_t magnitude = bits & 0x7FFFFFFF;
    const uint32_t normal =
        (magnitude - (uint32_t{127 - 15} << 23) + 0xFFF + ((magnitude >> 13) & 1)) >> 13;
    // The float32 numbers from 0.5 to 1 are 2^-24 apart, as float16's subnormals are: the addition
    // rounds to one of them.
    const uint32_t small = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) -
                           std::bit_cast<uint32_t>(0.5f);
    const uint32_t nan = 0x7E00 | ((magnitude >> 13) & 0x3FF);
    uint32_t result = magnitude < std::bit_cast<uint32_t>(0x1p-14f) ? small : normal;
    result = magnitude >= std::bit_cast<uint32_t>(0x1p16f) ? 0x7C00 : result;
    result = magnitude > 0x7F800000 ? nan : result;
    return static_cast<uint16_t>(sign | result);
  }
};

// Without its sign, a number is zero if nothing is left, infinite if the exponent is and nothing
// else, and finite if it is less than that.
template <class Type>
typename Type::Integer magnitude(typename Type::Bits value) {
  using Integer = typename Type::Integer;
  return std::bit_cast<Integer>(value) &
         static_cast<Integer>(static_cast<Integer>(~Integer{0}) >> 1);
}

template <class From, class To>
ConversionLoss convert(const std::byte* from, std::byte* to, size_t count) {
  const auto* in = reinterpret_cast<const typename From::Bits*>(from);
  auto* __restrict out = reinterpret_cast<typename To::Bits*>(to);
  ConversionLoss loss;
  // Counters of 32 bits, as wide as most elements: more of them in a vector.
  constexpr size_t kBlock = size_t{1} << 20;
  for (size_t first = 0; first < count; first += kBlock) {
    const size_t end = std::min(count, first + kBlock);
    uint32_t infinite = 0;
    uint32_t zero = 0;
    for (size_t i = first; i < end; ++i) {
      out[i] = To::store(From::load(in[i]));
      const auto before = magnitude<From>(in[i]);
      const auto after = magnitude<To>(out[i]);
      infinite += static_cast<uint32_t>(before < From::kExponent) &
                  static_cast<uint32_t>(after == To::kExponent);
      zero += static_cast<uint32_t>(before != 0) & static_cast<uint32_t>(after == 0);
    }
    loss.infinite += infinite;
    loss.zero += zero;
  }
  return loss;
}

template <class From>
ConversionLoss convert_to(WeightDType type, const std::byte* from, std::byte* to, size_t count) {
  switch (type) {
    case WeightDType::kBFloat16:
      return convert<From, BFloat16>(from, to, count);
    case WeightDType::kFloat16:
      return convert<From, Float16>(from, to, count);
    default:
      return convert<From, Float32>(from, to, count);
  }
}

}  // namespace

bool is_floating_point(WeightDType dtype) {
  return dtype == WeightDType::kFloat32 || dtype == WeightDType::kBFloat16 ||
         dtype == WeightDType::kFloat16 || dtype == WeightDType::kFloat64;
}

ConversionLoss convert_elements(const std::byte* from, WeightDType from_type, std::byte* to,
                                WeightDType to_type, size_t count) {
  switch (from_type) {
    case WeightDType::kFloat64:
      return convert_to<Float64>(to_type, from, to, count);
    case WeightDType::kBFloat16:
      return convert_to<BFloat16>(to_type, from, to, count);
    case WeightDType::kFloat16:
      return convert_to<Float16>(to_type, from, to, count);
    default:
      return convert_to<Float32>(to_type, from, to, count);
  }
}

}  // namespace jitflux
