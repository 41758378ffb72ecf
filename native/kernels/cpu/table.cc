#include "kernels/cpu/tables.h"

namespace jitflux::kernels::JIT_FLUX_ISA_NAMESPACE {

const KernelTable& kernel_table();

const KernelTable& kernel_table() {
  static const KernelTable table = {
      .isa = JIT_FLUX_STRING(JIT_FLUX_ISA),
      .f32 = row_kernels<float>(),
      .bf16 = row_kernels<BFloat16Bits>(),
      .attention_f32 = attention_kernels<float>(),
      .attention_bf16 = attention_kernels<BFloat16Bits>(),
      .jit = jit_kernels(),
  };
  return table;
}

}  // namespace jitflux::kernels::JIT_FLUX_ISA_NAMESPACE
