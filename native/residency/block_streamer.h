// Weights of a transformer that does not fit into device memory: they stay in page-locked host
// memory, and every pass copies them to the device block by block, two blocks ahead of the
// computation, into a ring of three.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "describe/flux_layers.h"
#include "residency/flux_weight_reader.h"
#include "residency/packed_linear.h"
#include "runtime/device.h"

namespace jitflux {

// Used inside one DeviceScope's thread and device.
class BlockStreamer {
 public:
  // The layers of every block, in the order in which blocks run. Reads their weights, and calls
  // `read` with every module that has been.
  BlockStreamer(const FluxWeightReader& reader, std::vector<std::vector<PackedLinear*>> blocks,
                const std::function<void(const std::string& module)>& read);

  // Called before a block's work is queued: its layers' weights are on the device for what is
  // queued now, until the next call. Passes run the blocks in order from 0; one that ends early
  // may be followed by another from 0.
  void begin(size_t block);

  // Of the passes so far. The session must have been synchronised.
  TransferStatistics take_statistics() { return copies_->take_statistics(); }

 private:
  static constexpr size_t kSlots = kStreamedSlots;

  struct Layer {
    PackedLinear* layer;
    int64_t weight_offset;  // bytes in the block
    int64_t bias_offset;
    int64_t outputs;
    int64_t inputs;
  };
  struct Block {
    std::vector<Layer> layers;
    at::Tensor host;  // page-locked bytes
  };
  struct Slot {
    at::Tensor memory;  // device bytes
    std::shared_ptr<CopyStream::Mark> filled;
  };

  void prefetch(uint64_t position);
  // A layer's weight and bias in a block's bytes, on the host or on the device.
  Linear layer_in(const at::Tensor& memory, const Layer& layer) const;

  at::ScalarType dtype_;
  std::vector<Block> blocks_;
  std::array<Slot, kSlots> slots_;
  // Positions in the endless sequence of blocks 0, 1, ..., last, 0, ...: the block that runs next,
  // and the first one that has not been copied. Position p is block p % blocks in slot p % kSlots.
  uint64_t next_ = 0;
  uint64_t copied_ = 0;
  std::unique_ptr<CopyStream> copies_;  // last: its end waits for copies between the others
};

}  // namespace jitflux
