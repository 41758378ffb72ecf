#include "runtime/out_of_memory.h"

#include <c10/util/Exception.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <new>
#include <oneapi/dnnl/dnnl_common.hpp>
#include <string_view>

#include "base/error.h"

namespace jitflux {

bool is_out_of_memory(const std::exception& error) {
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) return true;
  if (dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr) return true;
  if (const auto* onednn = dynamic_cast<const dnnl::error*>(&error)) {
    return onednn->status == dnnl_out_of_memory;
  }
  // LibTorch's CPU allocator and what CUDA's libraries allocate report exhaustion as a plain error.
  constexpr std::array<std::string_view, 6> kPhrases = {
      "can't allocate memory",      "std::bad_alloc",
      "Cannot allocate memory",     "CUDA error: out of memory",
      "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"};
  const auto* torch = dynamic_cast<const c10::Error*>(&error);
  const std::string_view text = torch != nullptr ? torch->what_without_backtrace() : error.what();
  return std::any_of(kPhrases.begin(), kPhrases.end(), [&](std::string_view phrase) {
    return text.find(phrase) != std::string_view::npos;
  });
}

void expect_memory(size_t bytes) {
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw Error(error_code::kOutOfMemory, "Out of host memory");
  ::munmap(memory, bytes);
}

}  // namespace jitflux
