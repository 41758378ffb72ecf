// What a unit of native work sees of its caller: an abort flag to poll and a progress sink.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/error.h"

namespace jitflux {

// Set from any thread, polled by the inference thread between transformer blocks and records.
using AbortFlag = std::shared_ptr<std::atomic<bool>>;

struct Job {
  AbortFlag abort;     // the caller's; may be null
  AbortFlag shutdown;  // the environment's: set when its Node environment goes away; may be null
  // Called on the inference thread; must not throw and must not block.
  std::function<void(uint64_t done, uint64_t total, const std::string& what)> progress;

  // Throws kAborted if someone asked this job to stop.
  void checkpoint() const {
    if ((abort && abort->load(std::memory_order_relaxed)) ||
        (shutdown && shutdown->load(std::memory_order_relaxed))) {
      throw Error(error_code::kAborted, "The operation was aborted");
    }
  }
};

}  // namespace jitflux
