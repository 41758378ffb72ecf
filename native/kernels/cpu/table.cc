#include "kernels/cpu/tables.h"

namespace jitflux::kernels::JIT_FLUX_ISA_NAMESPACE {

const KernelTable& kernel_table();

const KernelTable& kernel_table() {
  static const KernelTable table = {JIT_FLUX_STRING(JIT_FLUX_ISA),     row_kernels<float>(),
                                    row_kernels<BFloat16Bits>(),       attention_kernels<float>(),
                                    attention_kernels<BFloat16Bits>(), jit_kernels()};
  return table;
}

}  // namespace jitflux::kernels::JIT_FLUX_ISA_NAMESPACE
