// The tests by part of the engine, and the benchmark.
#pragma once

#include <string>

#include "harness.h"

namespace jitflux::kernel_tests {

void test_rows(Report& report);         // row_kernel_tests.cc
void test_autoencoder(Report& report);  // autoencoder_kernel_tests.cc
void test_jit(Report& report);          // jit_kernel_tests.cc

#if defined(JIT_FLUX_CUDA_EMULATION)
void test_emulation(Report& report);  // emulation_tests.cc
#endif

// kernel_bench.cc: prints a table and returns the same as JSON.
std::string run_benchmark();

inline constexpr Element kElements[] = {Element::kFloat32, Element::kBFloat16, Element::kFloat16};

}  // namespace jitflux::kernel_tests
