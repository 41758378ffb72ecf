// The sections of the benchmark, each in a file of its own.
#pragma once

#include "harness.h"

namespace jitflux::bench {

// What the machine and LibTorch's matrix products can reach at best.
void run_ceilings(Report& report);
// Each CPU kernel against the ATen operators that eager PyTorch would run.
void run_kernels(Report& report);
// Joint attention against at::scaled_dot_product_attention.
void run_attention(Report& report);
// The JiT operators over grid sizes.
void run_jit_operators(Report& report);

}  // namespace jitflux::bench
