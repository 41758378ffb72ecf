// Conversion between floating point types with the results of PyTorch: everything goes through
// float32 (float64 too, as c10::BFloat16 and c10::Half do), rounded to nearest even; what is too
// large becomes infinite; subnormals are kept. NaN stays NaN with its sign and leading payload,
// made quiet, as the processor's own conversions do (PyTorch's payload varies with its code path).
#pragma once

#include <cstddef>
#include <cstdint>

#include "weights/weight_file.h"

namespace jitflux {

bool is_floating_point(WeightDType dtype);

// What a conversion could not keep: finite numbers that became infinite, numbers other than zero
// that became zero.
struct ConversionLoss {
  uint64_t infinite = 0;
  uint64_t zero = 0;
};

// Both types must be floating point and the pointers aligned to them; `to` is float32, bfloat16 or
// float16. The ranges must not overlap.
ConversionLoss convert_elements(const std::byte* from, WeightDType from_type, std::byte* to,
                                WeightDType to_type, size_t count);

}  // namespace jitflux
