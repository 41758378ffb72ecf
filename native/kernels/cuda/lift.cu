// JiT operators on one image's latents and velocities, float32.
//
// Most kernels here work on token rows of few channels (64): a block of 256 threads is a table of
// `threads.x` vectors of channels by `threads.y` tokens, so that no index needs a division, and the
// gathers of a token are one contiguous read. Bytes per element:
//   gather_rows         4 read + 4 written
//   lift_step           columns: 4 per tap read, from the caches but for the first, + 4 written;
//                       rows: the same, + 8 for the latents
//   local_variance      a warp per token, lanes along the channels: 4 read (9 times, from the
//                       caches); 4 written per token
//   micro_flow_target   the columns as in lift_step; the rest at the new tokens only
//   blend_rows          8 read + 4 written
#include "kernels/cuda/kernels.cuh"
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

template <int N>
__global__ void __launch_bounds__(kThreads)
    gather_rows_kernel(const float* __restrict__ src, const int32_t* __restrict__ tokens,
                       float* out, int64_t count, int channels) {
  const int64_t i = token_index();
  if (i >= count) return;
  src += static_cast<int64_t>(tokens[i]) * channels;
  out += i * channels;
  for (int c = static_cast<int>(threadIdx.x) * N; c < channels;
       c += static_cast<int>(blockDim.x) * N) {
    copy<(N > 1), N>(src + c, out + c, N);
  }
}

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

template <int N>
__global__ void __launch_bounds__(kThreads)
    lift_kernel(const float* __restrict__ v, const int32_t* __restrict__ positions,
                const float* __restrict__ weights, int radius, const float* __restrict__ blurred,
                float* full, float* latents, float d_sigma, int rows, int cols, int channels) {
  const int64_t token = token_index();
  if (token >= static_cast<int64_t>(rows) * cols) return;
  for (int c = static_cast<int>(threadIdx.x) * N; c < channels;
       c += static_cast<int>(blockDim.x) * N) {
    float values[N];
    lifted<N>(v, positions, weights, radius, blurred, token, rows, cols, channels, c, values);
    const int64_t at = token * channels + c;
    store_channels<N>(full + at, values);
    if (latents == nullptr) continue;
    float y[N];
    load_channels<N>(latents + at, y);
#pragma unroll
    for (int i = 0; i < N; ++i) y[i] = fmaf(d_sigma, values[i], y[i]);
    store_channels<N>(latents + at, y);
  }
}

// a * x + b * y, each product rounded, as in the CPU's engine.
__device__ __forceinline__ float blended(float a, float x, float b, float y) {
  return __fadd_rn(__fmul_rn(a, x), __fmul_rn(b, y));
}

template <int N>
__global__ void __launch_bounds__(kThreads)
    micro_flow_target_kernel(const float* __restrict__ v, const int32_t* __restrict__ positions,
                             const float* __restrict__ weights, int radius,
                             const float* __restrict__ blurred, const float* __restrict__ noise,
                             const int32_t* __restrict__ new_tokens, int64_t count, float sigma,
                             float* out, int rows, int cols, int channels) {
  const int64_t i = token_index();
  if (i >= count) return;
  const int64_t token = new_tokens[i];
  for (int c = static_cast<int>(threadIdx.x) * N; c < channels;
       c += static_cast<int>(blockDim.x) * N) {
    float values[N];
    float eps[N];
    lifted<N>(v, positions, weights, radius, blurred, token, rows, cols, channels, c, values);
    load_channels<N>(noise + token * channels + c, eps);
#pragma unroll
    for (int j = 0; j < N; ++j) values[j] = blended(1.0f - sigma, values[j], sigma, eps[j]);
    store_channels<N>(out + i * channels + c, values);
  }
}

template <int N>
__global__ void __launch_bounds__(kThreads)
    blend_rows_kernel(float* latents, const float* __restrict__ target,
                      const int32_t* __restrict__ tokens, float weight, int64_t count,
                      int channels) {
  const int64_t i = token_index();
  if (i >= count) return;
  latents += static_cast<int64_t>(tokens[i]) * channels;
  target += i * channels;
  for (int c = static_cast<int>(threadIdx.x) * N; c < channels;
       c += static_cast<int>(blockDim.x) * N) {
    if (weight >= 1.0f) {  // exactly the target
      copy<(N > 1), N>(target + c, latents + c, N);
      continue;
    }
    float y[N];
    float goal[N];
    load_channels<N>(latents + c, y);
    load_channels<N>(target + c, goal);
#pragma unroll
    for (int j = 0; j < N; ++j) y[j] = blended(1.0f - weight, y[j], weight, goal[j]);
    store_channels<N>(latents + c, y);
  }
}

constexpr int kWarps = kThreads / kWarp;

__global__ void __launch_bounds__(kThreads)
    local_variance_kernel(const float* __restrict__ v, float* out, int rows, int cols,
                          int channels) {
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (token >= static_cast<int64_t>(rows) * cols) return;  // whole warps leave
  const int row = static_cast<int>(token / cols);
  const int column = static_cast<int>(token % cols);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  double sum = 0.0;
  for (int c = lane; c < channels; c += kWarp) {
    float window[9];  // zero beyond the grid
    int outside = 0;
    float mean = 0.0f;
#pragma unroll
    for (int k = 0; k < 9; ++k) {
      const int y = row + k / 3 - 1;
      const int x = column + k % 3 - 1;
      const bool inside = y >= 0 && y < rows && x >= 0 && x < cols;
      window[k] = inside ? v[(static_cast<int64_t>(y) * cols + x) * channels + c] : 0.0f;
      mean += window[k];
      outside += inside ? 0 : 1;
    }
    mean /= 9.0f;
    float square = 0.0f;
#pragma unroll
    for (int k = 0; k < 9; ++k) {
      const int y = row + k / 3 - 1;
      const int x = column + k % 3 - 1;
      const bool inside = y >= 0 && y < rows && x >= 0 && x < cols;
      const float delta = window[k] - mean;
      square = inside ? fmaf(delta, delta, square) : square;
    }
    // The padding's zeros belong to the window too.
    square = fmaf(static_cast<float>(outside) * mean, mean, square);
    sum += static_cast<double>(square / 9.0f);
  }
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    sum += __shfl_xor_sync(kAllLanes, sum, offset);
  }
  if (lane == 0) out[token] = static_cast<float>(sum / static_cast<double>(channels));
}

bool four_channels(std::initializer_list<const void*> pointers, int64_t channels) {
  return is_aligned(pointers) && channels % 4 == 0;
}

void blur_columns(const char* name, const float* v, const int32_t* nearest, const float* weights,
                  int64_t radius, float* blurred, int64_t rows, int64_t cols, int64_t channels,
                  DeviceStream stream) {
  const bool wide = four_channels({v, blurred}, channels);
  const TokenGeometry geometry(rows * cols, wide ? channels / 4 : channels);
  launch(name, wide ? blur_columns_kernel<4> : blur_columns_kernel<1>, geometry.grid,
         geometry.block, stream, v, nearest, weights, radius, blurred, rows * cols, cols, channels);
}

}  // namespace

void gather_rows(const float* src, const int32_t* tokens, float* out, int64_t count,
                 int64_t channels, DeviceStream stream) {
  if (count == 0 || channels == 0) return;
  const bool wide = four_channels({src, out}, channels);
  const TokenGeometry geometry(count, wide ? channels / 4 : channels);
  launch("gather_rows", wide ? gather_rows_kernel<4> : gather_rows_kernel<1>, geometry.grid,
         geometry.block, stream, src, tokens, out, count, channels);
}

void lift_step(const float* v, const int32_t* nearest, const int32_t* positions,
               const float* weights, int64_t radius, float* blurred, float* full, float* latents,
               float d_sigma, int64_t rows, int64_t cols, int64_t channels, DeviceStream stream) {
  if (rows * cols * channels == 0) return;
  blur_columns("lift_step", v, nearest, weights, radius, blurred, rows, cols, channels, stream);
  const bool wide = four_channels({v, blurred, full, latents}, channels);
  const TokenGeometry geometry(rows * cols, wide ? channels / 4 : channels);
  launch("lift_step", wide ? lift_kernel<4> : lift_kernel<1>, geometry.grid, geometry.block, stream,
         v, positions, weights, radius, blurred, full, latents, d_sigma, rows, cols, channels);
}

void local_variance(const float* v, float* out, int64_t rows, int64_t cols, int64_t channels,
                    DeviceStream stream) {
  if (rows * cols == 0) return;
  launch("local_variance", local_variance_kernel, Grid{divide_up(rows * cols, kWarps), 1},
         dim3(kThreads), stream, v, out, rows, cols, channels);
}

void micro_flow_target(const float* v, const int32_t* nearest, const int32_t* positions,
                       const float* weights, int64_t radius, float* blurred, const float* noise,
                       const int32_t* new_tokens, int64_t count, float sigma, float* out,
                       int64_t rows, int64_t cols, int64_t channels, DeviceStream stream) {
  if (count == 0 || channels == 0) return;
  blur_columns("micro_flow_target", v, nearest, weights, radius, blurred, rows, cols, channels,
               stream);
  const bool wide = four_channels({v, blurred, noise, out}, channels);
  const TokenGeometry geometry(count, wide ? channels / 4 : channels);
  launch("micro_flow_target", wide ? micro_flow_target_kernel<4> : micro_flow_target_kernel<1>,
         geometry.grid, geometry.block, stream, v, positions, weights, radius, blurred, noise,
         new_tokens, count, sigma, out, rows, cols, channels);
}

void blend_rows(float* latents, const float* target, const int32_t* tokens, float weight,
                int64_t count, int64_t channels, DeviceStream stream) {
  if (count == 0 || channels == 0) return;
  const bool wide = four_channels({latents, target}, channels);
  const TokenGeometry geometry(count, wide ? channels / 4 : channels);
  launch("blend_rows", wide ? blend_rows_kernel<4> : blend_rows_kernel<1>, geometry.grid,
         geometry.block, stream, latents, target, tokens, weight, count, channels);
}

}  // namespace jitflux::kernels::cuda
