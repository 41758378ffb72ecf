#include "register_peak.h"

#include <ATen/Parallel.h>
#include <immintrin.h>

#include <functional>
#include <string>

namespace jitflux::bench {

namespace {

// Enough independent chains to hide the latency of a multiply-add, few enough to stay in registers.
constexpr int kChains = 12;

// A function that runs `rounds` times kChains of `instruction`, in assembly so that nothing is
// folded away. All operands are zero; the instructions take no notice.
#define JIT_FLUX_PEAK_LOOP(name, isa, Vector, instruction)                 \
  __attribute__((target(isa))) void name(int64_t rounds) {                 \
    Vector sums[kChains] = {};                                             \
    const Vector factor = {};                                              \
    for (int64_t i = 0; i < rounds; ++i) {                                 \
      _Pragma("GCC unroll 12") for (Vector & sum : sums) {                 \
        asm volatile(instruction " %1, %1, %0" : "+v"(sum) : "v"(factor)); \
      }                                                                    \
    }                                                                      \
  }

JIT_FLUX_PEAK_LOOP(float32_avx2, "avx2,fma", __m256, "vfmadd231ps")
JIT_FLUX_PEAK_LOOP(float32_avx512, "avx512f", __m512, "vfmadd231ps")
JIT_FLUX_PEAK_LOOP(bfloat16_avx512, "avx512f,avx512bf16", __m512, "vdpbf16ps")
JIT_FLUX_PEAK_LOOP(int8_avx512, "avx512f,avx512vnni", __m512i, "vpdpbusd")

#undef JIT_FLUX_PEAK_LOOP

struct Loop {
  const char* dtype;
  const char* name;
  bool supported;
  double operations;  // multiplications and additions of one instruction
  void (*run)(int64_t rounds);
};

}  // namespace

void measure_register_peaks(Report& report) {
  const int64_t rounds = report.options().smoke() ? 10'000 : 1'000'000;
  const bool avx512 = __builtin_cpu_supports("avx512f");
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const Loop loops[] = {
      {"float32", "vfmadd231ps zmm", avx512, 32, float32_avx512},
      {"float32", "vfmadd231ps ymm", avx2 && !avx512, 16, float32_avx2},
      {"bfloat16", "vdpbf16ps zmm", avx512 && __builtin_cpu_supports("avx512bf16") != 0, 64,
       bfloat16_avx512},
      {"int8", "vpdpbusd zmm", avx512 && __builtin_cpu_supports("avx512vnni") != 0, 128,
       int8_avx512},
  };
  for (const Loop& loop : loops) {
    if (!loop.supported) continue;
    const int threads = at::get_num_threads();
    const double flops =
        loop.operations * kChains * static_cast<double>(rounds) * static_cast<double>(threads);
    const Samples samples =
        report.measure("register_peak", {{"dtype", loop.dtype}}, {.flops = flops},
                       {loop.name,
                        [&] {
                          at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
                            for (int64_t i = begin; i < end; ++i) loop.run(rounds);
                          });
                        }},
                       0.2);
    report.summarise("ceilings", std::string("register_") + loop.dtype + "_gflops",
                     flops / samples.fastest() * 1e-9);
  }
}

}  // namespace jitflux::bench
