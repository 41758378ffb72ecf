#include "flux/workspace.h"

#include <ATen/ops/empty.h>
#include <c10/util/accumulate.h>

namespace jitflux {

at::Tensor Workspace::view(Slot slot, at::IntArrayRef shape, at::ScalarType dtype) {
  at::Tensor& buffer = buffers_[slot];
  const int64_t numel = c10::multiply_integers(shape);
  if (!buffer.defined() || buffer.scalar_type() != dtype || buffer.numel() < numel) {
    buffer = at::empty({numel}, dtype);
  }
  return buffer.narrow(0, 0, numel).view(shape);
}

}  // namespace jitflux
