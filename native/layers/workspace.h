// Buffers of a forward pass that outlive a block, kept between calls.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>

namespace jitflux {

class Workspace {
 public:
  enum Slot {
    kResidual,
    kNormed,
    kConcat,
    kProjected,
    kQuery,
    kKey,
    kValue,
    kAttended,
    kPacked,
    kQuantized,
    kRowScale,
    kQuantizedWide,
    kRowScaleWide,
    kSlots
  };

  // A view of the slot's buffer in the given shape, on current_device(); the buffer grows when
  // needed. Contents are whatever the last user left.
  at::Tensor view(Slot slot, at::IntArrayRef shape, at::ScalarType dtype);

  // Changes whenever a buffer is replaced: addresses seen before are then no longer valid.
  uint64_t generation() const { return generation_; }

 private:
  uint64_t generation_ = 0;
  std::array<at::Tensor, kSlots> buffers_;
};

}  // namespace jitflux
