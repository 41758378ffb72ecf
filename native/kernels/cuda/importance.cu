// ITA's importance map of one image's velocity, float32.
//
// local_variance  a warp per token, lanes along the channels: 4 bytes read per element (9 times,
// from
//                 the caches); 4 written per token
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/vectors.cuh"

namespace jitflux::kernels::cuda {

namespace {

constexpr int kThreads = 256;
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

}  // namespace

void local_variance(const float* v, float* out, int64_t rows, int64_t cols, int64_t channels,
                    DeviceStream stream) {
  if (rows * cols == 0) return;
  launch("local_variance", local_variance_kernel, Grid{divide_up(rows * cols, kWarps), 1},
         dim3(kThreads), stream, v, out, rows, cols, channels);
}

}  // namespace jitflux::kernels::cuda
