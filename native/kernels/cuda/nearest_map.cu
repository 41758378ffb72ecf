// The exact nearest-anchor map of one image's grid, in integers.
//
// anchor_positions    a thread per token, then a thread per anchor; 4 bytes per token and 4 per
//                     anchor
// nearest_anchor_map  a thread per token searches its column outwards, then a thread per token its
//                     row of the columns' results; both stop as soon as nothing nearer can come, so
//                     the work follows from the distance of the anchors: a few 4 to 8-byte reads
//                     per token that neighbouring threads share
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/vectors.cuh"

namespace jitflux::kernels::cuda {

namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ int64_t thread_index() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

__global__ void __launch_bounds__(kThreads)
    clear_positions_kernel(int32_t* positions, int64_t tokens) {
  const int64_t token = thread_index();
  if (token < tokens) positions[token] = -1;
}

__global__ void __launch_bounds__(kThreads)
    set_positions_kernel(const int32_t* __restrict__ anchors, int64_t count, int32_t* positions) {
  const int64_t i = thread_index();
  if (i < count) positions[anchors[i]] = static_cast<int32_t>(i);
}

// The nearest anchor in a token's own column. x: rows to it, or -1 if the column has none; y: the
// earliest list position among the (at most two) at that distance.
__global__ void __launch_bounds__(kThreads)
    column_hit_kernel(const int32_t* __restrict__ positions, int2* hits, int rows, int cols) {
  const int64_t token = thread_index();
  if (token >= static_cast<int64_t>(rows) * cols) return;
  const int row = static_cast<int>(token / cols);
  int2 hit = make_int2(-1, -1);
  for (int distance = 0; distance < rows; ++distance) {
    const bool has_above = row - distance >= 0;
    const bool has_below = row + distance < rows;
    if (!has_above && !has_below) break;
    const int64_t offset = static_cast<int64_t>(distance) * cols;
    const int above = has_above ? positions[token - offset] : -1;
    const int below = has_below ? positions[token + offset] : -1;
    if (above >= 0 || below >= 0) {
      const int nearer = above < 0 ? below : below < 0 ? above : min(above, below);
      hit = make_int2(distance, nearer);
      break;
    }
  }
  hits[token] = hit;
}

// The key (squared distance, list position) in one integer: its order is the contract's.
__device__ __forceinline__ int64_t hit_key(int2 hit, int dx) {
  const int64_t squared = static_cast<int64_t>(hit.x) * hit.x + static_cast<int64_t>(dx) * dx;
  return hit.x < 0 ? INT64_MAX : squared << 32 | hit.y;
}

__global__ void __launch_bounds__(kThreads)
    nearest_anchor_kernel(const int2* __restrict__ hits, int32_t* nearest, int rows, int cols) {
  const int64_t token = thread_index();
  if (token >= static_cast<int64_t>(rows) * cols) return;
  const int column = static_cast<int>(token % cols);
  int64_t best = INT64_MAX;
  for (int dx = 0; dx < cols; ++dx) {
    // An anchor dx columns away is at least dx away; at exactly that distance it may still be the
    // earlier one in the list.
    if (static_cast<int64_t>(dx) * dx > best >> 32) break;
    const bool has_left = column - dx >= 0;
    const bool has_right = column + dx < cols;
    if (!has_left && !has_right) break;
    if (has_left) best = min(best, hit_key(hits[token - dx], dx));
    if (has_right) best = min(best, hit_key(hits[token + dx], dx));
  }
  nearest[token] = static_cast<int32_t>(best & 0xFFFFFFFF);
}

}  // namespace

void anchor_positions(const int32_t* anchors, int64_t count, int32_t* positions, int64_t tokens,
                      DeviceStream stream) {
  if (tokens == 0) return;
  launch("anchor_positions", clear_positions_kernel, Grid{divide_up(tokens, kThreads), 1},
         dim3(kThreads), stream, positions, tokens);
  if (count == 0) return;
  launch("anchor_positions", set_positions_kernel, Grid{divide_up(count, kThreads), 1},
         dim3(kThreads), stream, anchors, count, positions);
}

void nearest_anchor_map(const int32_t* positions, int32_t* nearest, void* scratch, int64_t rows,
                        int64_t cols, DeviceStream stream) {
  if (rows * cols == 0) return;
  const Grid grid{divide_up(rows * cols, kThreads), 1};
  auto* hits = static_cast<int2*>(scratch);
  launch("nearest_anchor_map", column_hit_kernel, grid, dim3(kThreads), stream, positions, hits,
         rows, cols);
  launch("nearest_anchor_map", nearest_anchor_kernel, grid, dim3(kThreads), stream, hits, nearest,
         rows, cols);
}

}  // namespace jitflux::kernels::cuda
