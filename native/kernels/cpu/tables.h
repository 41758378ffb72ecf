#pragma once

#include "kernels/cpu/vector_math.h"
#include "kernels/kernels.h"

namespace jitflux::kernels::JIT_FLUX_ISA_NAMESPACE {

template <typename T>
RowKernels<T> row_kernels();
template <typename T>
AttentionKernels<T> attention_kernels();
JitKernels jit_kernels();

}  // namespace jitflux::kernels::JIT_FLUX_ISA_NAMESPACE
