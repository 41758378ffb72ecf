// Token rows of few channels (64), and the lifter on them: what lifter.cu and micro_flow.cu share.
//
// A block of 256 threads is a table of `threads.x` vectors of channels by `threads.y` tokens, so
// that no index needs a division, and the gathers of a token are one contiguous read.
#pragma once

#include <initializer_list>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/vectors.cuh"
#include "kernels/reflect.h"

namespace jitflux::kernels::cuda {

namespace {

constexpr int kThreads = 256;

struct TokenGeometry {
  Grid grid;
  dim3 block;

  // `vectors` of channels per token.
  TokenGeometry(int64_t tokens, int64_t vectors) {
    const int64_t x = power_of_two(vectors, kThreads);
    const int64_t y = kThreads / x;
    grid = {divide_up(tokens, y), 1};
    block = dim3(static_cast<unsigned>(x), static_cast<unsigned>(y));
  }
};

__device__ __forceinline__ int64_t token_index() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
}

// N channels, 1 or 4.
template <int N>
__device__ __forceinline__ void load_channels(const float* from, float* values) {
  load<(N > 1), N>(from, N, values);
}
template <int N>
__device__ __forceinline__ void store_channels(float* to, const float* values) {
  store<(N > 1), N>(to, N, values);
}

// sum += weight * values
template <int N>
__device__ __forceinline__ void accumulate(float weight, const float* from, float* sum) {
  float values[N];
  load_channels<N>(from, values);
#pragma unroll
  for (int i = 0; i < N; ++i) sum[i] = fmaf(weight, values[i], sum[i]);
}

__device__ __forceinline__ int reflected(int i, int n) {
  return i >= 0 && i < n ? i : static_cast<int>(reflect(i, n));
}

// The field of nearest anchors, blurred along each row of the grid.
template <int N>
__global__ void __launch_bounds__(kThreads)
    blur_columns_kernel(const float* __restrict__ v, const int32_t* __restrict__ nearest,
                        const float* __restrict__ weights, int radius, float* blurred,
                        int64_t tokens, int cols, int channels) {
  const int64_t token = token_index();
  if (token >= tokens) return;
  const int column = static_cast<int>(token % cols);
  nearest += token - column;
  blurred += token * channels;
  for (int c = static_cast<int>(threadIdx.x) * N; c < channels;
       c += static_cast<int>(blockDim.x) * N) {
    float sum[N] = {};
    for (int j = -radius; j <= radius; ++j) {
      const int64_t anchor = nearest[reflected(column + j, cols)];
      accumulate<N>(weights[j + radius], v + anchor * channels + c, sum);
    }
    store_channels<N>(blurred + c, sum);
  }
}

// N channels from c on of the lifted field at a token.
template <int N>
__device__ __forceinline__ void lifted(const float* v, const int32_t* positions,
                                       const float* weights, int radius, const float* blurred,
                                       int64_t token, int rows, int cols, int channels, int c,
                                       float* values) {
  const int64_t position = positions[token];
  if (position >= 0) {
    load_channels<N>(v + position * channels + c, values);
    return;
  }
  const int row = static_cast<int>(token / cols);
  const int64_t column = token % cols;
#pragma unroll
  for (int i = 0; i < N; ++i) values[i] = 0.0f;
  for (int j = -radius; j <= radius; ++j) {
    const int64_t at = static_cast<int64_t>(reflected(row + j, rows)) * cols + column;
    accumulate<N>(weights[j + radius], blurred + at * channels + c, values);
  }
}

inline bool four_channels(std::initializer_list<const void*> pointers, int64_t channels) {
  return is_aligned(pointers) && channels % 4 == 0;
}

inline void blur_columns(const char* name, const device::Lift& a, DeviceStream stream) {
  const bool wide = four_channels({a.v, a.blurred}, a.channels);
  const int64_t tokens = a.rows * a.cols;
  const TokenGeometry geometry(tokens, wide ? a.channels / 4 : a.channels);
  launch(name, wide ? blur_columns_kernel<4> : blur_columns_kernel<1>, geometry.grid,
         geometry.block, stream, a.v, a.nearest, a.weights, a.radius, a.blurred, tokens, a.cols,
         a.channels);
}

}  // namespace

}  // namespace jitflux::kernels::cuda
