#include "layers/attention.h"

#include <ATen/Parallel.h>
#include <ATen/SDPBackend.h>
#include <ATen/ops/_fused_sdp_choice.h>
#include <ATen/ops/scaled_dot_product_attention.h>

#include <algorithm>
#include <cmath>

#include "base/counters.h"
#include "layers/activation.h"
#include "runtime/parallel.h"

namespace jitflux {

namespace {

constexpr int64_t kAlignment = 64;

// Queries that go through the keys together: as many as the kernel takes, unless threads would be
// left without work. What a query gets does not depend on it.
int64_t queries_of_task(int64_t most, int64_t all) {
  constexpr int64_t kTasksPerThread = 4;
  constexpr int64_t kFewest = 32;
  const int64_t share = all / (kTasksPerThread * at::get_num_threads());
  return std::clamp(share / kFewest * kFewest, std::min(kFewest, most), most);
}

template <typename T>
void own_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                   const at::Tensor& out, const AttentionShape& shape, Workspace& workspace) {
  const auto& kernels = kernels::table().attention<KernelType<T>>();
  const int64_t width = shape.heads * shape.head_dim;
  const int64_t out_stride = out.stride(0);
  const int64_t heads = shape.images * shape.heads;
  const int64_t bytes = (kernels.packed_bytes(shape.sequence, shape.head_dim) + kAlignment - 1) /
                        kAlignment * kAlignment;
  // LibTorch's allocations are 64-byte aligned.
  auto* packed = static_cast<std::byte*>(
      workspace.view(Workspace::kPacked, {heads * bytes}, at::kByte).mutable_data_ptr());
  const auto* q_data = const_data<T>(q);
  const auto* k_data = const_data<T>(k);
  const auto* v_data = const_data<T>(v);
  auto* out_data = data<T>(out);
  // First element of a head's row 0 in a [images * S, width] buffer with the given row stride.
  const auto offset = [&](int64_t head, int64_t stride) {
    return head / shape.heads * shape.sequence * stride + head % shape.heads * shape.head_dim;
  };
  parallel_rows(heads, shape.sequence * shape.head_dim, [&](int64_t begin, int64_t end) {
    for (int64_t head = begin; head < end; ++head) {
      const int64_t at = offset(head, width);
      kernels.pack(k_data + at, v_data + at, width, shape.sequence, shape.head_dim,
                   packed + head * bytes);
    }
  });
  const int64_t queries = queries_of_task(kernels.queries, heads * shape.sequence);
  const int64_t blocks = (shape.sequence + queries - 1) / queries;
  const float scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
  const int64_t cost = queries * shape.sequence;
  parallel_rows(heads * blocks, cost, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t head = task / blocks;
      const int64_t row = task % blocks * queries;
      const int64_t rows = std::min(queries, shape.sequence - row);
      kernels.attend({.q = q_data + offset(head, width) + row * width,
                      .q_stride = width,
                      .packed = packed + head * bytes,
                      .keys = shape.sequence,
                      .head_dim = shape.head_dim,
                      .scale = scale,
                      .out = out_data + offset(head, out_stride) + row * out_stride,
                      .out_stride = out_stride,
                      .rows = rows});
    }
  });
}

}  // namespace

void joint_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, at::Tensor out,
                     const AttentionShape& shape, Workspace& workspace) {
  if (shape.head_dim % kernels::kAttentionHeadDimMultiple == 0 &&
      shape.head_dim <= kernels::kAttentionMaxHeadDim) {
    count(Counter::kAttention);
    if (q.scalar_type() == at::kBFloat16) {
      own_attention<at::BFloat16>(q, k, v, out, shape, workspace);
    } else {
      own_attention<float>(q, k, v, out, shape, workspace);
    }
    return;
  }
  count(Counter::kAttentionFallback);
  const auto heads = [&](const at::Tensor& t) {
    return t.view({shape.images, shape.sequence, shape.heads, shape.head_dim}).transpose(1, 2);
  };
  out.copy_(at::scaled_dot_product_attention(heads(q), heads(k), heads(v))
                .transpose(1, 2)
                .reshape({shape.images * shape.sequence, shape.heads * shape.head_dim}));
}

at::Tensor device_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const AttentionShape& shape) {
  // [images, heads, S, head_dim] without moving anything.
  const auto heads = [&](const at::Tensor& t) {
    const int64_t row = t.stride(0);
    return t.as_strided({shape.images, shape.heads, shape.sequence, shape.head_dim},
                        {shape.sequence * row, shape.head_dim, row, 1});
  };
  const at::Tensor queries = heads(q);
  const at::Tensor keys = heads(k);
  const at::Tensor values = heads(v);
  // LibTorch's last resort holds all scores in memory, and would only show as lost time.
  const bool fused =
      at::_fused_sdp_choice(queries, keys, values) != static_cast<int64_t>(at::SDPBackend::math);
  count(fused ? Counter::kDeviceAttention : Counter::kAttentionFallback);
  // The result has its tokens in rows already where the library keeps the layout of q.
  return at::scaled_dot_product_attention(queries, keys, values)
      .transpose(1, 2)
      .reshape({shape.images * shape.sequence, shape.heads * shape.head_dim});
}

}  // namespace jitflux
