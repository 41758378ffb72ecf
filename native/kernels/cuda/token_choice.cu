// The choice of the next anchors on one image's grid.
//
// top_k  a warp ranks kRanked tokens by comparing them with all tokens, which pass through shared
//        memory: tokens^2 / 32 comparisons per lane, exact and without atomics; 8 bytes read per
//        token and block
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/vectors.cuh"

namespace jitflux::kernels::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kRanked = 4;  // tokens of one warp
constexpr int kWarps = kThreads / kWarp;
constexpr int kTile = 1024;  // tokens in shared memory
constexpr uint64_t kLast = ~uint64_t{0};

// Orders tokens as top_k lists them: by descending score, then by index; kLast if not a candidate.
__device__ __forceinline__ uint64_t rank_key(const float* scores, const int32_t* positions,
                                             int64_t token, int64_t tokens) {
  if (token >= tokens) return kLast;
  if (positions != nullptr && positions[token] >= 0) return kLast;
  float score = scores[token];
  if (isnan(score)) score = -INFINITY;
  if (score == 0.0f) score = 0.0f;  // -0 equals 0
  const uint32_t bits = __float_as_uint(score);
  const uint32_t ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(~ascending) << 32 | static_cast<uint32_t>(token);
}

__global__ void __launch_bounds__(kThreads)
    top_k_kernel(const float* __restrict__ scores, const int32_t* __restrict__ positions,
                 int64_t tokens, int64_t count, int32_t* out) {
  __shared__ __align__(16) uint64_t tile[kTile];
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarp;
  const int64_t first =
      (static_cast<int64_t>(blockIdx.x) * kWarps + thread / kWarp) * static_cast<int64_t>(kRanked);
  uint64_t keys[kRanked];
  int32_t rank[kRanked] = {};
#pragma unroll
  for (int i = 0; i < kRanked; ++i) keys[i] = rank_key(scores, positions, first + i, tokens);
  for (int64_t begin = 0; begin < tokens; begin += kTile) {
    // The previous tile has been read by all.
    __syncthreads();
    for (int i = thread; i < kTile; i += kThreads) {
      tile[i] = rank_key(scores, positions, begin + i, tokens);
    }
    __syncthreads();
#pragma unroll 4
    for (int i = lane; i < kTile; i += kWarp) {
      const uint64_t other = tile[i];
#pragma unroll
      for (int j = 0; j < kRanked; ++j) rank[j] += other < keys[j] ? 1 : 0;
    }
  }
#pragma unroll
  for (int i = 0; i < kRanked; ++i) {
    int32_t total = rank[i];
#pragma unroll
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
      total += __shfl_xor_sync(kAllLanes, total, offset);
    }
    if (lane == 0 && keys[i] != kLast && total < count) {
      out[total] = static_cast<int32_t>(first + i);
    }
  }
}

}  // namespace

void top_k(const float* scores, const int32_t* positions, int64_t tokens, int64_t count,
           int32_t* out, DeviceStream stream) {
  if (tokens == 0 || count == 0) return;
  launch("top_k", top_k_kernel, Grid{divide_up(tokens, kWarps * kRanked), 1}, dim3(kThreads),
         stream, scores, positions, tokens, count, out);
}

}  // namespace jitflux::kernels::cuda
