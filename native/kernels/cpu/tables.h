#pragma once

#include "kernels/cpu/vector_math.h"
#include "kernels/kernels.h"

namespace jitflux::kernels::JIT_FLUX_ISA_NAMESPACE {

template <typename T>
RowKernels<T> row_kernels();
template <typename T>
AttentionKernels<T> attention_kernels();
#if JIT_FLUX_AMX
template <>
AttentionKernels<BFloat16Bits> attention_kernels<BFloat16Bits>();  // attention_amx.cc
#endif
JitKernels jit_kernels();

}  // namespace jitflux::kernels::JIT_FLUX_ISA_NAMESPACE
