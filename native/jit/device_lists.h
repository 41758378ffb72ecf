// The JiT operators' token lists, where their kernels read them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "base/token_grid.h"
#include "runtime/device.h"

namespace jitflux::jit {

// Token lists where kernels read them.
class DeviceLists {
 public:
  // `lists` must outlive it.
  explicit DeviceLists(const TokenLists& lists)
      : lists_(lists), tensor_(on_current_device(lists.tokens)) {}
  const int32_t* of(int64_t image) const {
    return tensor_.const_data_ptr<int32_t>() + (lists_.shared() ? 0 : image * lists_.count);
  }

 private:
  const TokenLists& lists_;
  at::Tensor tensor_;
};

}  // namespace jitflux::jit
