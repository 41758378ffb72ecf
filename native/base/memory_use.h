// How much memory the engine holds in this process, for reports. Updated by whoever allocates or
// maps; read at any time, from any thread.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace jitflux {

class MemoryGauge {
 public:
  void add(size_t bytes) {
    const uint64_t now = bytes_.fetch_add(bytes, std::memory_order_relaxed) + bytes;
    uint64_t peak = peak_.load(std::memory_order_relaxed);
    while (peak < now && !peak_.compare_exchange_weak(peak, now, std::memory_order_relaxed)) {
    }
  }
  void subtract(size_t bytes) { bytes_.fetch_sub(bytes, std::memory_order_relaxed); }

  uint64_t bytes() const { return bytes_.load(std::memory_order_relaxed); }
  uint64_t peak() const { return peak_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> bytes_{0};
  std::atomic<uint64_t> peak_{0};
};

// Host memory behind tensors and packed weights, buffers that arenas keep included.
inline MemoryGauge tensor_memory;
// Of that, what arenas keep for the next pass and nothing uses now.
inline MemoryGauge idle_memory;
// Weight files that are mapped; the system holds them in memory as it sees fit.
inline MemoryGauge mapped_memory;

}  // namespace jitflux
