// jit_flux_bench <section> [--quick | --smoke] [--threads N] [--fresh-memory]: measures parts of
// the engine and prints one JSON document to stdout; progress goes to stderr. jit_flux_bench peer
// answers requests instead (peer.h). It finds LibTorch by its RUNPATH.
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>

#include "harness.h"
#include "kernels/kernels.h"
#include "peer.h"
#include "runtime/memory_arena.h"
#include "sections.h"

namespace {

using jitflux::bench::Report;

struct Section {
  const char* name;
  void (*run)(Report& report);
};

constexpr Section kSections[] = {
    {"ceilings", jitflux::bench::run_ceilings},
    {"kernels", jitflux::bench::run_kernels},
    {"attention", jitflux::bench::run_attention},
    {"jit-operators", jitflux::bench::run_jit_operators},
};

constexpr const char* kUsage =
    "usage: jit_flux_bench <section> [--quick | --smoke] [--threads N] [--fresh-memory]\n"
    "       jit_flux_bench peer\n"
    "sections: ceilings, kernels, attention, jit-operators, all\n"
    "--smoke: tiny shapes, to see that all of it runs.\n"
    "peer: eager ATen, asked over standard input.\n"
    "--fresh-memory: large results come in fresh pages, not from an arena that keeps them.\n"
    "JIT_FLUX_ISA chooses the kernels' instruction set, as in the library.\n";

// The product's loader makes OpenMP's threads wait passively (native/loader/loader.c), and libgomp
// reads the setting when it is loaded, which here is before main(): so start over with it.
void wait_passively(char** argv) {
  if (std::getenv("OMP_WAIT_POLICY") != nullptr || std::getenv("GOMP_SPINCOUNT") != nullptr) return;
  setenv("OMP_WAIT_POLICY", "passive", 1);
  execv("/proc/self/exe", argv);
  std::perror("jit_flux_bench: cannot start over with OMP_WAIT_POLICY=passive");
}

struct Arguments {
  std::string section;
  jitflux::bench::Mode mode = jitflux::bench::Mode::kFull;
  bool fresh_memory = false;
  int threads = 0;  // 0: LibTorch's choice
};

bool parse(int argc, char** argv, Arguments& arguments) {
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--quick") == 0) {
      arguments.mode = jitflux::bench::Mode::kQuick;
    } else if (std::strcmp(argv[i], "--smoke") == 0) {
      arguments.mode = jitflux::bench::Mode::kSmoke;
    } else if (std::strcmp(argv[i], "--fresh-memory") == 0) {
      arguments.fresh_memory = true;
    } else if (std::strcmp(argv[i], "--threads") == 0 && i + 1 < argc) {
      arguments.threads = std::atoi(argv[++i]);
      if (arguments.threads < 1) return false;
    } else if (argv[i][0] != '-' && arguments.section.empty()) {
      arguments.section = argv[i];
    } else {
      return false;
    }
  }
  if (arguments.section == "all") return true;
  for (const Section& section : kSections) {
    if (arguments.section == section.name) return true;
  }
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  // Both sides of every comparison: threads that spin slow down whatever shares their cores.
  wait_passively(argv);
  if (argc == 2 && std::strcmp(argv[1], "peer") == 0) {
    // Without the arena: with the allocator that a user of LibTorch has.
    const c10::InferenceMode inference;
    jitflux::bench::serve_peer();
    return 0;
  }
  Arguments arguments;
  if (!parse(argc, argv, arguments)) {
    std::fputs(kUsage, stderr);
    return 2;
  }
  try {
    jitflux::MemoryArena::install();
    const c10::InferenceMode inference;
    if (arguments.threads > 0) at::set_num_threads(arguments.threads);
    const char* isa = jitflux::kernels::table().isa;
    std::fprintf(stderr, "instruction set %s, %d threads\n", isa, at::get_num_threads());

    Report report({arguments.mode, arguments.fresh_memory});
    for (const Section& section : kSections) {
      if (arguments.section != "all" && arguments.section != section.name) continue;
      report.begin_section(section.name);
      section.run(report);
    }
    const std::string document =
        report.json(arguments.section, {{"isa", isa},
                                        {"threads", int64_t{at::get_num_threads()}},
                                        {"mode", jitflux::bench::mode_name(arguments.mode)},
                                        {"memory", arguments.fresh_memory ? "fresh" : "arena"}});
    return std::fputs(document.c_str(), stdout) < 0 || std::fflush(stdout) != 0 ? 1 : 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "jit_flux_bench: %s\n", error.what());
    return 1;
  }
}
