#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "kernels/kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

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
namespace isa_amx {
const KernelTable& kernel_table();
}
namespace isa_amx_emulated {
const KernelTable& kernel_table();
}

namespace {

bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

bool has_avx512bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }

// Tiles of bfloat16 (CPUID leaf 7), and Linux's leave to use them, which a process asks for once
// and all its threads have: their state is 8 KB for each.
bool has_amx() {
#if defined(__x86_64__)
  constexpr unsigned kBFloat16Tiles = 1u << 22;
  constexpr unsigned kTiles = 1u << 24;
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  return has_avx512bf16() && __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 &&
         (d & kBFloat16Tiles) != 0 && (d & kTiles) != 0 &&
         ::syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

std::vector<const KernelTable*> supported_tables() {
  std::vector<const KernelTable*> tables = {&isa_default::kernel_table()};
  if (has_avx2()) tables.push_back(&isa_avx2::kernel_table());
  if (has_avx512()) tables.push_back(&isa_avx512::kernel_table());
  if (has_avx512bf16()) tables.push_back(&isa_avx512bf16::kernel_table());
  if (has_amx()) tables.push_back(&isa_amx::kernel_table());
  return tables;
}

// The last one, but for Intel's CPUs without tiles: their vdpbf16ps runs at half of float32's rate
// (a Xeon with AMX, two cores: 219 of 420 GFLOP/s), and what avx512bf16 adds is products of
// bfloat16 by it.
const KernelTable* best(const std::vector<const KernelTable*>& tables) {
  const KernelTable* last = tables.back();
  const bool slow = last == &isa_avx512bf16::kernel_table() && __builtin_cpu_is("intel") != 0;
  return slow ? &isa_avx512::kernel_table() : last;
}

const KernelTable& choose() {
  const auto tables = supported_tables();
  if (const char* wanted = std::getenv("JIT_FLUX_ISA"); wanted != nullptr && *wanted != '\0') {
    for (const KernelTable* candidate : tables) {
      if (std::strcmp(candidate->isa, wanted) == 0) return *candidate;
    }
    // Every CPU can, and none should but for a test.
    const KernelTable& emulated = isa_amx_emulated::kernel_table();
    if (std::strcmp(emulated.isa, wanted) == 0) return emulated;
    std::string names;
    for (const KernelTable* candidate : tables) {
      names += (names.empty() ? "" : ", ") + std::string(candidate->isa);
    }
    throw Error(error_code::kInvalidArgument,
                "Expected JIT_FLUX_ISA to be one of this CPU's instruction sets (" + names +
                    ") but received \"" + wanted + "\"");
  }
  return *best(tables);
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
