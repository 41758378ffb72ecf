#include "layers/latent_embedder.h"

#include <ATen/ops/zeros.h>

#include "kernels/kernels.h"

namespace jitflux {

LatentEmbedder LatentEmbedder::from(const Linear& linear) {
  constexpr int64_t kColumns = kernels::kEmbedColumns;
  const int64_t outputs = linear.weight.size(0);
  const int64_t inputs = linear.weight.size(1);
  const int64_t blocks = (outputs + kColumns - 1) / kColumns;
  const at::Tensor padded =
      at::zeros({blocks * kColumns, inputs}, linear.weight.options().dtype(at::kFloat));
  padded.narrow(0, 0, outputs).copy_(linear.weight);
  return {padded.view({blocks, kColumns, inputs}).transpose(1, 2).contiguous(),
          linear.bias.to(at::kFloat)};
}

}  // namespace jitflux
