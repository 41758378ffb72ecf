// Splits rows over the inference thread's OpenMP team.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>

namespace jitflux {

// Calls f(begin, end) on disjoint ranges that cover [0, rows). `cost` is the work of one row in
// elements touched; ranges are kept large enough to be worth a thread, which takes about 60 us to
// wake (they wait passively, so that they do not take the cores from the service around us).
template <typename F>
void parallel_rows(int64_t rows, int64_t cost, const F& f) {
  constexpr int64_t kElementsPerTask = 131072;
  at::parallel_for(0, rows, std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(1, cost)), f);
}

}  // namespace jitflux
