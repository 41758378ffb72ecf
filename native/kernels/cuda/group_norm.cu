// Group norm of feature maps with the channels last: statistics folded into a scale and a shift per
// channel, and the pass that applies them with SiLU.
//
// Statistics. The pixels are cut into `part_count` ranges, a number that follows from the shape
// alone; one block of 256 threads sums each, deviations from the range's first value and their
// squares in float32. A thread owns one vector of channels and every lanes-th pixel of the range
// (about 64 values per sum at 1024 x 1024), so that a warp reads consecutive memory. One block per
// group then combines the ranges in float64. Bytes per element, T = bfloat16: 2 read.
//
// scale_shift_silu: as gelu_tanh, a thread keeps its channels' scale and shift over kRows rows.
// Bytes per element, T = bfloat16: 2 read + 2 written.
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/vectors.cuh"

namespace jitflux::kernels::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxParts = 1024;
constexpr int64_t kMinPixels = 64;  // of one part
constexpr int kRows = 4;            // of one thread of scale_shift_silu

int64_t part_count(int64_t pixels) {
  const int64_t parts = pixels / kMinPixels;
  return parts < 1 ? 1 : parts < kMaxParts ? parts : kMaxParts;
}

// Scratch: [parts][kMoments][channels].
constexpr int kMoments = 3;  // first value, sum of deviations from it, sum of their squares

// First pixel of a part.
__host__ __device__ __forceinline__ int64_t part_begin(int64_t pixels, int64_t part,
                                                       int64_t parts) {
  return pixels * part / parts;
}

template <typename T, bool kWide>
__global__ void __launch_bounds__(kThreads)
    partial_moments_kernel(const T* __restrict__ x, int64_t row_stride, int64_t pixels,
                           int64_t columns, int channels, int vectors, float* scratch) {
  constexpr int N = kVector<T>;
  __shared__ __align__(16) float sums[2][kThreads][N];
  const int64_t part = blockIdx.x;
  const int64_t parts = gridDim.x;
  const int thread = static_cast<int>(threadIdx.x);
  const int lanes = kThreads / vectors;  // pixels at a time
  const int lane = thread / vectors;
  const int64_t channel =
      (static_cast<int64_t>(blockIdx.y) * vectors + thread % vectors) * static_cast<int64_t>(N);
  const int64_t count = channels - channel;

  const int64_t begin = part_begin(pixels, part, parts);
  const int64_t end = part_begin(pixels, part + 1, parts);
  float first[N] = {};
  float sum[N] = {};
  float square[N] = {};
  if (count > 0) {
    const T* of_channel = x + channel;
    load<kWide, N>(of_channel + begin / columns * row_stride + begin % columns * channels, count,
                   first);
    int64_t row = (begin + lane) / columns;
    int64_t column = (begin + lane) % columns;
    for (int64_t pixel = begin + lane; pixel < end; pixel += lanes) {
      float values[N];
      load<kWide, N>(of_channel + row * row_stride + column * channels, count, values);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const float delta = values[i] - first[i];
        sum[i] += delta;
        square[i] = fmaf(delta, delta, square[i]);
      }
      for (column += lanes; column >= columns; column -= columns) ++row;
    }
  }
#pragma unroll
  for (int i = 0; i < N; ++i) {
    sums[0][thread][i] = sum[i];
    sums[1][thread][i] = square[i];
  }
  for (int half = lanes / 2; half > 0; half /= 2) {
    __syncthreads();
    if (lane < half) {
#pragma unroll
      for (int i = 0; i < N; ++i) {
        sums[0][thread][i] += sums[0][thread + half * vectors][i];
        sums[1][thread][i] += sums[1][thread + half * vectors][i];
      }
    }
  }
  // The threads of lane 0 wrote the sums that they read here.
  if (lane > 0) return;
  float* to = scratch + part * kMoments * channels + channel;
  for (int i = 0; i < N && i < count; ++i) {
    to[i] = first[i];
    to[channels + i] = sums[0][thread][i];
    to[2 * static_cast<int64_t>(channels) + i] = sums[1][thread][i];
  }
}

__global__ void __launch_bounds__(kThreads)
    group_norm_kernel(const float* __restrict__ scratch, int64_t pixels, int64_t parts,
                      int channels, int width, const float* __restrict__ weight,
                      const float* __restrict__ bias, float eps, float* scale, float* shift) {
  __shared__ double sums[2][kThreads];
  const int thread = static_cast<int>(threadIdx.x);
  const int first_channel = static_cast<int>(blockIdx.x) * width;
  double sum = 0.0;
  double square = 0.0;
  for (int64_t i = thread; i < parts * width; i += kThreads) {
    const int64_t part = i / width;
    const float* moments = scratch + part * kMoments * channels + first_channel + i % width;
    const double origin = moments[0];
    const double deviation = moments[channels];
    const double deviation_square = moments[2 * static_cast<int64_t>(channels)];
    const double count =
        static_cast<double>(part_begin(pixels, part + 1, parts) - part_begin(pixels, part, parts));
    sum += deviation + count * origin;
    square += deviation_square + origin * (2.0 * deviation + count * origin);
  }
  sums[0][thread] = sum;
  sums[1][thread] = square;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) {
      sums[0][thread] += sums[0][thread + half];
      sums[1][thread] += sums[1][thread + half];
    }
  }
  __syncthreads();
  const double count = static_cast<double>(pixels) * width;
  const double mean = sums[0][0] / count;
  const double spread = sums[1][0] / count - mean * mean;
  // A maximum would turn NaN into 0.
  const double variance = spread < 0.0 ? 0.0 : spread;
  const double inverse = 1.0 / sqrt(variance + static_cast<double>(eps));
  for (int c = first_channel + thread; c < first_channel + width; c += kThreads) {
    const double gain = weight[c];
    scale[c] = static_cast<float>(gain * inverse);
    shift[c] = static_cast<float>(static_cast<double>(bias[c]) - mean * gain * inverse);
  }
}

template <typename T>
struct PartialMoments {
  static void run(const device::GroupNorm& a, DeviceStream stream) {
    const bool wide = is_aligned({a.x}) && is_divisible({a.row_stride, a.channels}, kVector<T>);
    const auto kernel = wide ? partial_moments_kernel<T, true> : partial_moments_kernel<T, false>;
    const int64_t pixels = a.rows * a.columns;
    const int64_t needed = divide_up(a.channels, kVector<T>);
    const int64_t vectors = power_of_two(needed, kThreads);
    launch("group_norm", kernel, Grid{part_count(pixels), divide_up(needed, vectors)},
           dim3(kThreads), stream, static_cast<const T*>(a.x), a.row_stride, pixels, a.columns,
           a.channels, vectors, static_cast<float*>(a.scratch));
  }
};

template <typename T, bool kWide>
__global__ void __launch_bounds__(kThreads)
    scale_shift_silu_kernel(const T* x, int64_t x_row_stride, const float* __restrict__ scale,
                            const float* __restrict__ shift, T* out, int64_t out_row_stride,
                            int64_t rows, int64_t width, int channels) {
  constexpr int N = kWide ? kVector<T> : 1;
  const int64_t column = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * N;
  if (column >= width) return;
  const int64_t channel = column % channels;
  float factor[N];
  float offset[N];
  load<kWide, N>(scale + channel, N, factor);
  load<kWide, N>(shift + channel, N, offset);
  x += column;
  out += column;
  for (int64_t base = static_cast<int64_t>(blockIdx.y) * kRows; base < rows;
       base += static_cast<int64_t>(gridDim.y) * kRows) {
    float values[kRows][N];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (base + r < rows) load<kWide, N>(x + (base + r) * x_row_stride, N, values[r]);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (base + r >= rows) break;
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const float y = fmaf(values[r][i], factor[i], offset[i]);
        values[r][i] = __fdividef(y, 1.0f + expf(-y));
      }
      store<kWide, N>(out + (base + r) * out_row_stride, N, values[r]);
    }
  }
}

template <typename T>
struct ScaleShiftSilu {
  static void run(const device::ScaleShiftSilu& a, DeviceStream stream) {
    const bool wide = is_aligned({a.x, a.scale, a.shift, a.out}) &&
                      is_divisible({a.x_row_stride, a.out_row_stride, a.channels}, kVector<T>);
    const auto kernel = wide ? scale_shift_silu_kernel<T, true> : scale_shift_silu_kernel<T, false>;
    const int64_t row_blocks = divide_up(a.rows, kRows);
    const int64_t width = a.columns * a.channels;
    const Grid grid{divide_up(width, int64_t{kThreads} * (wide ? kVector<T> : 1)),
                    row_blocks < kMaxGridY ? row_blocks : kMaxGridY};
    launch("scale_shift_silu", kernel, grid, dim3(kThreads), stream, static_cast<const T*>(a.x),
           a.x_row_stride, a.scale, a.shift, static_cast<T*>(a.out), a.out_row_stride, a.rows,
           width, a.channels);
  }
};

}  // namespace

int64_t group_norm_scratch_bytes(int64_t rows, int64_t columns, int64_t channels) {
  return part_count(rows * columns) * kMoments * channels * static_cast<int64_t>(sizeof(float));
}

void group_norm(Element type, const device::GroupNorm& arguments, DeviceStream stream) {
  const device::GroupNorm& a = arguments;
  const int64_t pixels = a.rows * a.columns;
  if (pixels == 0 || a.channels == 0) return;
  dispatch<PartialMoments>(type, a, stream);
  launch("group_norm", group_norm_kernel, Grid{a.groups, 1}, dim3(kThreads), stream,
         static_cast<const float*>(a.scratch), pixels, part_count(pixels), a.channels,
         a.channels / a.groups, a.weight, a.bias, a.eps, a.scale, a.shift);
}

void scale_shift_silu(Element type, const device::ScaleShiftSilu& arguments, DeviceStream stream) {
  if (arguments.rows * arguments.columns * arguments.channels == 0) return;
  dispatch<ScaleShiftSilu>(type, arguments, stream);
}

}  // namespace jitflux::kernels::cuda
