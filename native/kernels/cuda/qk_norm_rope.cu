// RMSNorm and rotation of q and k, in place or into buffers of their own.
//
// One block per row, so that the row's cos and sin are loaded once per thread and serve every head.
// Eight columns per lane; the power of two of lanes that covers a head (16 for 128 columns, 32 for
// 256) forms a group, and the block's groups take the 2 * heads heads of q and k in turn. A lane
// holds whole pairs, so the rotation needs no exchange, and a group reads its head before it writes
// it. Bytes per element of q and k, T = bfloat16: 2 read + 2 written; as much for each of v.
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/vectors.cuh"

namespace jitflux::kernels::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kColumns = 8;  // of one lane
// Heads that a group has under way: one round for the 24 heads of 128 columns of q and of k.
constexpr int kRound = 3;

template <typename T, bool kWide>
__global__ void __launch_bounds__(kThreads)
    qk_norm_rope_kernel(const T* qkv, int64_t qkv_stride, const float* __restrict__ q_weight,
                        const float* __restrict__ k_weight, const float* __restrict__ cos,
                        const float* __restrict__ sin, const int32_t* __restrict__ positions, T* q,
                        T* k, T* v, int64_t out_stride, int heads, int head_dim, float eps,
                        int lanes) {
  const int64_t row = blockIdx.x;
  qkv += row * qkv_stride;
  q += row * out_stride;
  k += row * out_stride;

  const int column = static_cast<int>(threadIdx.x) % lanes * kColumns;
  const int count = head_dim - column;
  const int group = static_cast<int>(threadIdx.x) / lanes;
  const int groups = static_cast<int>(blockDim.x) / lanes;
  float q_factor[kColumns] = {};
  float k_factor[kColumns] = {};
  float row_cos[kColumns] = {};
  float row_sin[kColumns] = {};
  const bool rotated = cos != nullptr;
  if (count > 0) {
    load<kWide, kColumns>(q_weight + column, count, q_factor);
    load<kWide, kColumns>(k_weight + column, count, k_factor);
    if (rotated) {
      const int64_t position = positions == nullptr ? row : positions[row];
      load<kWide, kColumns>(cos + position * head_dim + column, count, row_cos);
      load<kWide, kColumns>(sin + position * head_dim + column, count, row_sin);
    }
  }

  // Every thread makes every round: group_sum needs whole warps. The loads of a round come before
  // its first store, behind which the compiler could not move them.
  for (int base = group; base - group < 2 * heads; base += kRound * groups) {
    float values[kRound][kColumns] = {};
#pragma unroll
    for (int r = 0; r < kRound; ++r) {
      const int head = base + r * groups;  // of q, then of k: the parts of qkv are adjacent
      if (head < 2 * heads && count > 0) {
        load<kWide, kColumns>(qkv + static_cast<int64_t>(head) * head_dim + column, count,
                              values[r]);
      }
    }
#pragma unroll
    for (int r = 0; r < kRound; ++r) {
      const int head = base + r * groups;
      float sum = 0.0f;
#pragma unroll
      for (int i = 0; i < kColumns; ++i) sum = fmaf(values[r][i], values[r][i], sum);
      sum = group_sum(sum, lanes);
      if (head >= 2 * heads || count <= 0) continue;
      const float inverse = 1.0f / sqrtf(sum / static_cast<float>(head_dim) + eps);
      const bool is_q = head < heads;
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        values[r][i] = values[r][i] * inverse * (is_q ? q_factor[i] : k_factor[i]);
      }
      if (rotated) {
#pragma unroll
        for (int i = 0; i < kColumns; i += 2) {
          const float a = values[r][i];
          const float b = values[r][i + 1];
          values[r][i] = fmaf(b, row_sin[i], a * row_cos[i]);
          values[r][i + 1] = fmaf(a, row_sin[i + 1], b * row_cos[i + 1]);
        }
      }
      T* to = is_q ? q + static_cast<int64_t>(head) * head_dim
                   : k + static_cast<int64_t>(head - heads) * head_dim;
      store<kWide, kColumns>(to + column, count, values[r]);
    }
  }

  if (v == nullptr) return;
  constexpr int kCopied = kWide ? kVector<T> : 1;
  const int64_t width = static_cast<int64_t>(heads) * head_dim;
  qkv += 2 * width;
  v += row * out_stride;
  for (int64_t i = static_cast<int64_t>(threadIdx.x) * kCopied; i < width;
       i += static_cast<int64_t>(blockDim.x) * kCopied) {
    copy<kWide, kCopied>(qkv + i, v + i, width - i);
  }
}

template <typename T>
struct Launch {
  static void run(const device::QkNormRope& a, DeviceStream stream) {
    const bool wide = is_aligned({a.qkv, a.q_weight, a.k_weight, a.cos, a.sin, a.q, a.k, a.v}) &&
                      is_divisible({a.qkv_stride, a.out_stride}, kVector<T>) &&
                      a.head_dim % kColumns == 0;
    const int64_t lanes = power_of_two(divide_up(a.head_dim, kColumns), kWarp);
    const int64_t threads =
        power_of_two(divide_up(2 * a.heads * lanes, kWarp), kThreads / kWarp) * kWarp;
    const auto kernel = wide ? qk_norm_rope_kernel<T, true> : qk_norm_rope_kernel<T, false>;
    launch("qk_norm_rope", kernel, Grid{a.rows, 1}, dim3(static_cast<unsigned>(threads)), stream,
           static_cast<const T*>(a.qkv), a.qkv_stride, a.q_weight, a.k_weight, a.cos, a.sin,
           a.positions, static_cast<T*>(a.q), static_cast<T*>(a.k), static_cast<T*>(a.v),
           a.out_stride, a.heads, a.head_dim, a.eps, lanes);
  }
};

}  // namespace

void qk_norm_rope(Element type, const device::QkNormRope& arguments, DeviceStream stream) {
  const int64_t head_dim = arguments.head_dim;
  if (head_dim < 2 || head_dim > kDeviceMaxHeadDim || head_dim % 2 != 0) {
    throw std::runtime_error("qk_norm_rope: heads of " + std::to_string(head_dim) + " columns");
  }
  if (arguments.rows == 0 || arguments.heads == 0) return;
  dispatch<Launch>(type, arguments, stream);
}

}  // namespace jitflux::kernels::cuda
