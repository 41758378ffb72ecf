#pragma once

#include <cstdint>

namespace jitflux::kernels {

// Mirror without repeating the border (torch's 'reflect'), folded again where the kernel is wider
// than the grid; a side of one token maps to itself. Static: see cpu/vector_math.h on headers that
// sources for several instruction sets share.
#if defined(__CUDACC__)
__host__ __device__
#endif
    static inline int64_t
    reflect(int64_t i, int64_t n) {
  if (n == 1) return 0;
  const int64_t period = 2 * (n - 1);
  i = i % period;
  if (i < 0) i += period;
  return i < n ? i : period - i;
}

}  // namespace jitflux::kernels
