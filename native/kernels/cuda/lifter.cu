// Compression and lifter on one image's latents and velocities, float32. Bytes per element:
//   gather_rows  4 read + 4 written
//   lift_step    columns: 4 per tap read, from the caches but for the first, + 4 written; rows: the
//                same, + 8 for the latents
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/lifter.cuh"

namespace jitflux::kernels::cuda {

namespace {

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

}  // namespace

void gather_rows(const float* src, const int32_t* tokens, float* out, int64_t count,
                 int64_t channels, DeviceStream stream) {
  if (count == 0 || channels == 0) return;
  const bool wide = four_channels({src, out}, channels);
  const TokenGeometry geometry(count, wide ? channels / 4 : channels);
  launch("gather_rows", wide ? gather_rows_kernel<4> : gather_rows_kernel<1>, geometry.grid,
         geometry.block, stream, src, tokens, out, count, channels);
}

void lift_step(const device::Lift& a, float* full, float* latents, float d_sigma,
               DeviceStream stream) {
  if (a.rows * a.cols * a.channels == 0) return;
  blur_columns("lift_step", a, stream);
  const bool wide = four_channels({a.v, a.blurred, full, latents}, a.channels);
  const TokenGeometry geometry(a.rows * a.cols, wide ? a.channels / 4 : a.channels);
  launch("lift_step", wide ? lift_kernel<4> : lift_kernel<1>, geometry.grid, geometry.block, stream,
         a.v, a.positions, a.weights, a.radius, a.blurred, full, latents, d_sigma, a.rows, a.cols,
         a.channels);
}

}  // namespace jitflux::kernels::cuda
