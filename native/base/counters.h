// How often each path of the engine ran in this process: tests and benchmarks prove with it that
// the fast ones did, since a silent fallback would only show as lost time.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace jitflux {

enum class Counter : size_t {
  kLayerNormModulate,
  kGatedResidual,
  kGatedResidualLayerNormModulate,
  kQkNormRope,
  kGelu,
  kGatherEmbed,
  kQuantizeRows,
  kLiftStep,
  kAttention,
  // LibTorch's attention, for head sizes that ours does not take; on an accelerator its unfused one
  kAttentionFallback,
  kDeviceAttention,  // LibTorch's fused one on an accelerator
  kLinearPlain,      // oneDNN, weights in the file's layout
  kLinearPacked,     // oneDNN, weights reordered once
  kLinearInt8,       // oneDNN, 8-bit weights and activations
  kLinearWidened,    // of the plain and packed ones: in float32, for want of bfloat16 products
  kLinearDevice,     // cuBLASLt, weights in device memory
  kLinearStreamed,   // cuBLASLt, weights copied to the device for this pass
  kGraphLaunch,      // passes that ran as a recorded graph
  kArenaReused,      // large tensors in memory that was kept (memory_arena.h)
  kArenaAllocated,   // large tensors for which an arena had none
  kCount
};

// Names for JavaScript, in the order of Counter.
inline constexpr std::array<const char*, static_cast<size_t>(Counter::kCount)> kCounterNames = {
    "layerNormModulate",
    "gatedResidual",
    "gatedResidualLayerNormModulate",
    "qkNormRope",
    "gelu",
    "gatherEmbed",
    "quantizeRows",
    "liftStep",
    "attention",
    "attentionFallback",
    "deviceAttention",
    "linearPlain",
    "linearPacked",
    "linearInt8",
    "linearWidened",
    "linearDevice",
    "linearStreamed",
    "graphLaunch",
    "arenaReused",
    "arenaAllocated",
};

inline std::array<std::atomic<uint64_t>, static_cast<size_t>(Counter::kCount)> counters{};

inline void count(Counter counter) {
  counters[static_cast<size_t>(counter)].fetch_add(1, std::memory_order_relaxed);
}

}  // namespace jitflux
