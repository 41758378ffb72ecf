// DMF on one image's latents, float32. Bytes per element:
//   micro_flow_target  the columns as in lift_step; the rest at the new tokens only
//   blend_rows         8 read + 4 written
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/lifter.cuh"

namespace jitflux::kernels::cuda {

namespace {

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

}  // namespace

void micro_flow_target(const device::Lift& a, const float* noise, const int32_t* new_tokens,
                       int64_t count, float sigma, float* out, DeviceStream stream) {
  if (count == 0 || a.channels == 0) return;
  blur_columns("micro_flow_target", a, stream);
  const bool wide = four_channels({a.v, a.blurred, noise, out}, a.channels);
  const TokenGeometry geometry(count, wide ? a.channels / 4 : a.channels);
  launch("micro_flow_target", wide ? micro_flow_target_kernel<4> : micro_flow_target_kernel<1>,
         geometry.grid, geometry.block, stream, a.v, a.positions, a.weights, a.radius, a.blurred,
         noise, new_tokens, count, sigma, out, a.rows, a.cols, a.channels);
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
