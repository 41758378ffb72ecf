#include "layers/workspace.h"

#include <ATen/ops/empty.h>
#include <c10/util/accumulate.h>

#include "runtime/device.h"

namespace jitflux {

at::Tensor Workspace::view(Slot slot, at::IntArrayRef shape, at::ScalarType dtype) {
  at::Tensor& buffer = buffers_[slot];
  const int64_t numel = c10::multiply_integers(shape);
  if (!buffer.defined() || buffer.scalar_type() != dtype || buffer.numel() < numel) {
    // Before its successor: the two need not fit together, and the successor may not either.
    buffer.reset();
    ++generation_;
    buffer = at::empty({numel}, options_here(dtype));
  }
  return buffer.narrow(0, 0, numel).view(shape);
}

}  // namespace jitflux
