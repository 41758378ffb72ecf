#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "kernels/kernels.h"

namespace jitflux::kernels {

// Defined once per instruction set by cpu/table.cc.
namespace isa_default {
const KernelTable& kernel_table();
}
namespace isa_avx2 {
const KernelTable& kernel_table();
}
namespace isa_avx512 {
const KernelTable& kernel_table();
}
namespace isa_avx512bf16 {
const KernelTable& kernel_table();
}

namespace {

bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

bool has_avx512bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }

std::vector<const KernelTable*> supported_tables() {
  std::vector<const KernelTable*> tables = {&isa_default::kernel_table()};
  if (has_avx2()) tables.push_back(&isa_avx2::kernel_table());
  if (has_avx512()) tables.push_back(&isa_avx512::kernel_table());
  if (has_avx512bf16()) tables.push_back(&isa_avx512bf16::kernel_table());
  return tables;
}

const KernelTable& choose() {
  const auto tables = supported_tables();
  if (const char* wanted = std::getenv("JIT_FLUX_ISA"); wanted != nullptr && *wanted != '\0') {
    for (const KernelTable* candidate : tables) {
      if (std::strcmp(candidate->isa, wanted) == 0) return *candidate;
    }
    std::string names;
    for (const KernelTable* candidate : tables) {
      names += (names.empty() ? "" : ", ") + std::string(candidate->isa);
    }
    throw Error(error_code::kInvalidArgument,
                "Expected JIT_FLUX_ISA to be one of this CPU's instruction sets (" + names +
                    ") but received \"" + wanted + "\"");
  }
  return *tables.back();
}

}  // namespace

const KernelTable& table() {
  static const KernelTable& chosen = choose();
  return chosen;
}

std::vector<std::string> supported_isas() {
  std::vector<std::string> names;
  for (const KernelTable* candidate : supported_tables()) names.emplace_back(candidate->isa);
  return names;
}

}  // namespace jitflux::kernels
