#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace jitflux {

// Standard normal noise, bit-equal to torch.randn(shape, generator=torch.Generator('cpu')
// .manual_seed(seed), dtype=dtype) of PyTorch 2.13, whichever LibTorch this is (16-bit types: for
// fewer than 16 numbers and for multiples of 16). With one seed the whole tensor is one draw; with
// shape[0] seeds image b is a draw of its own, as a tensor [1, ...] from seeds[b] (diffusers' list
// of generators).
at::Tensor randn(const std::vector<int64_t>& shape, const std::vector<uint64_t>& seeds,
                 at::ScalarType dtype);

}  // namespace jitflux
