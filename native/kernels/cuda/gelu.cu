// GELU into the columns of a wider buffer, whose first columns may come from elsewhere.
//
// Blocks of 256 threads along the columns; a thread takes one vector of kRows rows and has all its
// loads under way before it computes. Bytes per element, T = bfloat16: 2 read + 2 written.
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/vectors.cuh"

namespace jitflux::kernels::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kRows = 4;  // of one thread

// 0.5 x (1 + tanh(u)) = x / (1 + e^(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3). __fdividef is exact
// to 2 units in the last place, and gives 0 where the divisor overflows.
__device__ __forceinline__ float gelu_tanh_of(float x) {
  constexpr float kMinusTwoRootTwoOverPi = -1.5957691216057308f;
  const float inner = fmaf(0.044715f * x * x, x, x);
  return __fdividef(x, 1.0f + expf(kMinusTwoRootTwoOverPi * inner));
}

template <typename T, bool kWide>
__global__ void __launch_bounds__(kThreads)
    gelu_tanh_kernel(const T* src, int64_t src_stride, int64_t prefix_columns, T* dst,
                     int64_t dst_stride, int64_t rows, int64_t d) {
  constexpr int N = kWide ? kVector<T> : 1;
  const int64_t column = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * N;
  if (column >= d) return;
  src += column;
  dst += prefix_columns + column;
  for (int64_t base = static_cast<int64_t>(blockIdx.y) * kRows; base < rows;
       base += static_cast<int64_t>(gridDim.y) * kRows) {
    float values[kRows][N];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (base + r < rows) load<kWide, N>(src + (base + r) * src_stride, N, values[r]);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (base + r >= rows) break;
#pragma unroll
      for (int i = 0; i < N; ++i) values[r][i] = gelu_tanh_of(values[r][i]);
      store<kWide, N>(dst + (base + r) * dst_stride, N, values[r]);
    }
  }
}

template <typename T, bool kWide>
__global__ void __launch_bounds__(kThreads)
    copy_columns_kernel(const T* src, int64_t src_stride, T* dst, int64_t dst_stride, int64_t rows,
                        int64_t columns) {
  constexpr int N = kWide ? kVector<T> : 1;
  const int64_t column = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * N;
  if (column >= columns) return;
  for (int64_t base = static_cast<int64_t>(blockIdx.y) * kRows; base < rows;
       base += static_cast<int64_t>(gridDim.y) * kRows) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (base + r >= rows) break;
      copy<kWide, N>(src + (base + r) * src_stride + column, dst + (base + r) * dst_stride + column,
                     N);
    }
  }
}

Grid geometry(int64_t rows, int64_t columns, int64_t columns_per_thread) {
  const int64_t row_blocks = divide_up(rows, kRows);
  return {divide_up(columns, kThreads * columns_per_thread),
          row_blocks < kMaxGridY ? row_blocks : kMaxGridY};
}

template <typename T>
struct Launch {
  static void run(const device::GeluTanh& a, DeviceStream stream) {
    constexpr int64_t kWidth = kVector<T>;
    if (a.prefix != nullptr && a.prefix_columns > 0) {
      const bool wide = is_aligned({a.prefix, a.dst}) &&
                        is_divisible({a.prefix_stride, a.prefix_columns, a.dst_stride}, kWidth);
      const auto kernel = wide ? copy_columns_kernel<T, true> : copy_columns_kernel<T, false>;
      launch("gelu_tanh", kernel, geometry(a.rows, a.prefix_columns, wide ? kWidth : 1),
             dim3(kThreads), stream, static_cast<const T*>(a.prefix), a.prefix_stride,
             static_cast<T*>(a.dst), a.dst_stride, a.rows, a.prefix_columns);
    }
    if (a.d == 0) return;
    const bool wide = is_aligned({a.src, a.dst}) &&
                      is_divisible({a.src_stride, a.prefix_columns, a.dst_stride, a.d}, kWidth);
    const auto kernel = wide ? gelu_tanh_kernel<T, true> : gelu_tanh_kernel<T, false>;
    launch("gelu_tanh", kernel, geometry(a.rows, a.d, wide ? kWidth : 1), dim3(kThreads), stream,
           static_cast<const T*>(a.src), a.src_stride, a.prefix_columns, static_cast<T*>(a.dst),
           a.dst_stride, a.rows, a.d);
  }
};

}  // namespace

void gelu_tanh(Element type, const device::GeluTanh& arguments, DeviceStream stream) {
  if (arguments.rows == 0) return;
  dispatch<Launch>(type, arguments, stream);
}

}  // namespace jitflux::kernels::cuda
