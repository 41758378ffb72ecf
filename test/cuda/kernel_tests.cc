// The CUDA kernels against the CPU's and against double precision. Built twice: with the emulation
// (jit_flux_kernel_tests), and for a GPU (jit_flux_cuda_kernel_tests).
//   [--json FILE] [--seed N] [--only rows|autoencoder|jit]
//                   tests, of one part of the engine or all; N: another set of thread orders in the
//                   emulation
//   --bench FILE    times instead, on a GPU
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>
#include <string_view>

#include "tests.h"

namespace {

bool write_file(const char* path, const std::string& text) {
  std::FILE* file = std::fopen(path, "w");
  if (file == nullptr) return false;
  const bool written = std::fwrite(text.data(), 1, text.size(), file) == text.size();
  return std::fclose(file) == 0 && written;
}

bool is_part(std::string_view name) {
  return name == "rows" || name == "autoencoder" || name == "jit";
}

}  // namespace

int main(int argc, char** argv) {
  namespace tests = jitflux::kernel_tests;
  const char* json = nullptr;
  const char* bench = nullptr;
  std::string only;
  for (int i = 1; i < argc; i += 2) {
    if (i + 1 < argc && std::strcmp(argv[i], "--json") == 0) {
      json = argv[i + 1];
    } else if (i + 1 < argc && std::strcmp(argv[i], "--bench") == 0) {
      bench = argv[i + 1];
    } else if (i + 1 < argc && std::strcmp(argv[i], "--seed") == 0) {
      tests::set_base_seed(std::strtoull(argv[i + 1], nullptr, 10));
    } else if (i + 1 < argc && std::strcmp(argv[i], "--only") == 0 && is_part(argv[i + 1])) {
      only = argv[i + 1];
    } else {
      std::fprintf(stderr, "usage: %s [--json FILE] [--seed N] [--only PART] | --bench FILE\n",
                   argv[0]);
      return 2;
    }
  }
  try {
    if (bench != nullptr) return write_file(bench, tests::run_benchmark()) ? 0 : 1;
    tests::Report report;
    const auto wanted = [&only](const char* part) { return only.empty() || only == part; };
#if defined(JIT_FLUX_CUDA_EMULATION)
    if (only.empty()) tests::test_emulation(report);
#endif
    if (wanted("rows")) tests::test_rows(report);
    if (wanted("autoencoder")) tests::test_autoencoder(report);
    if (wanted("jit")) tests::test_jit(report);
    report.end();
    if (json != nullptr && !write_file(json, report.json())) {
      std::fprintf(stderr, "%s cannot be written\n", json);
      return 1;
    }
    return report.passed() ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
