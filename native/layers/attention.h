// Joint attention of the transformer.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "layers/workspace.h"

namespace jitflux {

struct AttentionShape {
  int64_t images;
  int64_t sequence;  // S, text and image tokens
  int64_t heads;
  int64_t head_dim;
};

// out = softmax(q k^T / sqrt(head_dim)) v per image and head, no mask. q, k, v: [images * S, heads
// * head_dim] contiguous, float32 or bfloat16; out: the same shape and type, possibly a range of
// columns of a wider buffer. Own kernel where the head size allows it, else LibTorch's; counted.
void joint_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, at::Tensor out,
                     const AttentionShape& shape, Workspace& workspace);

// The same on an accelerator, by LibTorch (cuDNN or flash attention): q, k, v may be columns of a
// wider buffer. Returns [images * S, heads * head_dim], contiguous.
at::Tensor device_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const AttentionShape& shape);

}  // namespace jitflux
