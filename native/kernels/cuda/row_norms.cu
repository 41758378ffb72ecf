// Norms over token rows: adaLN, gated residual with the next adaLN in the same pass, T5's RMSNorm.
//
// One block per row; the row is read once and stays in registers. Value v of thread t's vector j is
// column (j * threads + t) * kVector + v, whatever the width of the accesses, so that both paths
// add in the same order. The number of threads follows from d alone:
//   d <= 1024: 32   d <= 4096: 128   d <= 8192: 256   d <= 16384: 512   (at most 32 values each)
// At d = 3072 a block is 128 threads with 24 values. Bytes per element of T = bfloat16:
//   layer_norm_modulate   2 read + 2 written
//   gated_residual        4 read + 2 written, + 2 written with the norm
//   rms_norm              4 read + 2 written
// shift, scale, gate and weight come from the caches.
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/vectors.cuh"

namespace jitflux::kernels::cuda {

namespace {

constexpr int kMaxThreads = 512;
constexpr int kMaxWarps = kMaxThreads / kWarp;
constexpr int kMaxValues = 32;  // of one thread

int64_t row_threads(int64_t d) {
  for (const int64_t threads : {32, 128, 256}) {
    if (d <= threads * kMaxValues) return threads;
  }
  return kMaxThreads;
}

// Columns of one thread.
template <typename T>
struct Columns {
  int64_t d;
  __device__ __forceinline__ int64_t first(int vector) const {
    return (static_cast<int64_t>(vector) * blockDim.x + threadIdx.x) * kVector<T>;
  }
  // How many of a vector's columns the row has, as far as they are positive.
  __device__ __forceinline__ int64_t count(int vector) const { return d - first(vector); }
};

// This thread's values of a row of T or float32; those beyond the row are left as they are.
template <typename T, int kValues, bool kWide, typename From>
__device__ __forceinline__ void load_row(const From* x, const Columns<T>& columns, float* values) {
  constexpr int N = kVector<T>;
#pragma unroll
  for (int j = 0; j < kValues / N; ++j) {
    const int64_t count = columns.count(j);
    if (count > 0) load<kWide, N>(x + columns.first(j), count, values + j * N);
  }
}

template <int kValues>
__device__ __forceinline__ float sum_of(const float* values) {
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kValues; ++i) sum += values[i];
  return sum;
}

// 1 / sqrt(mean square deviation from `mean` + eps) over the row. `partial`: as in block_sum.
template <typename T, int kValues, bool kWide>
__device__ __forceinline__ float inverse_deviation(const float* values, const Columns<T>& columns,
                                                   float mean, float eps, float* partial) {
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kValues; ++i) {
    const float delta = values[i] - mean;
    const int64_t count = columns.count(i / kVector<T>);
    const bool inside = kWide ? count > 0 : i % kVector<T> < count;
    sum = inside ? fmaf(delta, delta, sum) : sum;
  }
  sum = block_sum(sum, partial);
  return 1.0f / sqrtf(sum / static_cast<float>(columns.d) + eps);
}

// out = layer_norm(values) * (1 + scale) + shift.
template <typename T, int kValues, bool kWide>
__device__ __forceinline__ void normalize_row(const float* values, const Columns<T>& columns,
                                              const float* shift, const float* scale, T* out,
                                              float eps) {
  constexpr int N = kVector<T>;
  __shared__ float partial_sum[kMaxWarps];
  __shared__ float partial_square[kMaxWarps];
  const float mean =
      block_sum(sum_of<kValues>(values), partial_sum) / static_cast<float>(columns.d);
  const float inverse =
      inverse_deviation<T, kValues, kWide>(values, columns, mean, eps, partial_square);
#pragma unroll
  for (int j = 0; j < kValues / N; ++j) {
    const int64_t column = columns.first(j);
    const int64_t count = columns.count(j);
    if (count <= 0) continue;
    float factor[N];
    float offset[N];
    float result[N];
    load<kWide, N>(scale + column, count, factor);
    load<kWide, N>(shift + column, count, offset);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float normed = (values[j * N + i] - mean) * inverse;
      result[i] = fmaf(normed, 1.0f + factor[i], offset[i]);
    }
    store<kWide, N>(out + column, count, result);
  }
}

template <typename T, int kValues, bool kWide>
__global__ void __launch_bounds__(kMaxThreads)
    layer_norm_modulate_kernel(const T* x, const float* __restrict__ shift,
                               const float* __restrict__ scale, T* out, int64_t d, float eps) {
  const Columns<T> columns{d};
  x += blockIdx.x * d;
  out += blockIdx.x * d;
  float values[kValues] = {};
  load_row<T, kValues, kWide>(x, columns, values);
  normalize_row<T, kValues, kWide>(values, columns, shift, scale, out, eps);
}

template <typename T, int kValues, bool kWide, bool kNorm>
__global__ void __launch_bounds__(kMaxThreads)
    gated_residual_kernel(T* x, const T* y, const float* __restrict__ gate,
                          const float* __restrict__ shift, const float* __restrict__ scale, T* out,
                          int64_t d, float eps) {
  constexpr int N = kVector<T>;
  const Columns<T> columns{d};
  x += blockIdx.x * d;
  y += blockIdx.x * d;
  float values[kValues] = {};
  // All loads come before the first store, behind which the compiler could not move them.
  uint4 held[kWide ? kValues / N : 1];
#pragma unroll
  for (int j = 0; j < kValues / N; ++j) {
    const int64_t column = columns.first(j);
    const int64_t count = columns.count(j);
    if (count <= 0) continue;
    load<kWide, N>(x + column, count, values + j * N);
    if constexpr (kWide) held[j] = *reinterpret_cast<const uint4*>(y + column);
  }
#pragma unroll
  for (int j = 0; j < kValues / N; ++j) {
    const int64_t column = columns.first(j);
    const int64_t count = columns.count(j);
    if (count <= 0) continue;
    float added[N];
    float factor[N];
    if constexpr (kWide) {
      unpack<T>(held[j], added);
    } else {
      load<kWide, N>(y + column, count, added);
    }
    load<kWide, N>(gate + column, count, factor);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      values[j * N + i] = round_to<T>(clipped<T>(fmaf(factor[i], added[i], values[j * N + i])));
    }
    store<kWide, N>(x + column, count, values + j * N);
  }
  if constexpr (kNorm) {
    out += blockIdx.x * d;
    normalize_row<T, kValues, kWide>(values, columns, shift, scale, out, eps);
  }
}

template <typename T, int kValues, bool kWide>
__global__ void __launch_bounds__(kMaxThreads)
    rms_norm_kernel(const float* x, const float* __restrict__ weight, T* out, int64_t d,
                    float eps) {
  constexpr int N = kVector<T>;
  __shared__ float partial[kMaxWarps];
  const Columns<T> columns{d};
  x += blockIdx.x * d;
  out += blockIdx.x * d;
  float values[kValues] = {};
  load_row<T, kValues, kWide>(x, columns, values);
  // Zeros beyond the row add nothing to a sum around zero.
  const float inverse = inverse_deviation<T, kValues, kWide>(values, columns, 0.0f, eps, partial);
#pragma unroll
  for (int j = 0; j < kValues / N; ++j) {
    const int64_t column = columns.first(j);
    const int64_t count = columns.count(j);
    if (count <= 0) continue;
    float factor[N];
    float result[N];
    load<kWide, N>(weight + column, count, factor);
#pragma unroll
    for (int i = 0; i < N; ++i) result[i] = values[j * N + i] * inverse * factor[i];
    store<kWide, N>(out + column, count, result);
  }
}

// Launch<kValues, kWide>::run(arguments...) for rows of d. Element-wise access, which is rare, has
// one size: values beyond the row are zeros and change no sum.
template <template <int, bool> class Launch, typename... Arguments>
void for_width(bool wide, int64_t d, Arguments... arguments) {
  if (!wide) return Launch<kMaxValues, false>::run(arguments...);
  const int64_t values = divide_up(d, row_threads(d));
  if (values <= 8) return Launch<8, true>::run(arguments...);
  if (values <= 16) return Launch<16, true>::run(arguments...);
  if (values <= 24) return Launch<24, true>::run(arguments...);
  return Launch<kMaxValues, true>::run(arguments...);
}

struct RowGeometry {
  Grid grid;
  dim3 block;

  RowGeometry(const char* name, int64_t rows, int64_t d)
      : grid{rows, 1}, block(static_cast<unsigned>(row_threads(d))) {
    if (d < 1 || d > kDeviceNormMaxWidth) {
      throw std::runtime_error(std::string(name) + ": rows of " + std::to_string(d) + " columns");
    }
  }
};

template <typename T>
struct LayerNormModulate {
  static constexpr const char* kName = "layer_norm_modulate";

  template <int kValues, bool kWide>
  struct Launch {
    static void run(const device::LayerNormModulate& a, DeviceStream stream) {
      const RowGeometry geometry(kName, a.rows, a.d);
      launch(kName, layer_norm_modulate_kernel<T, kValues, kWide>, geometry.grid, geometry.block,
             stream, static_cast<const T*>(a.x), a.shift, a.scale, static_cast<T*>(a.out), a.d,
             a.eps);
    }
  };

  static void run(const device::LayerNormModulate& a, DeviceStream stream) {
    const bool wide = is_aligned({a.x, a.shift, a.scale, a.out}) && a.d % kVector<T> == 0;
    for_width<Launch>(wide, a.d, a, stream);
  }
};

template <typename T>
struct GatedResidual {
  static constexpr const char* kName = "gated_residual";

  template <int kValues, bool kWide>
  struct Launch {
    static void run(const device::GatedResidual& a, DeviceStream stream) {
      const RowGeometry geometry(kName, a.rows, a.d);
      const auto kernel = a.shift == nullptr ? gated_residual_kernel<T, kValues, kWide, false>
                                             : gated_residual_kernel<T, kValues, kWide, true>;
      launch(kName, kernel, geometry.grid, geometry.block, stream, static_cast<T*>(a.x),
             static_cast<const T*>(a.y), a.gate, a.shift, a.scale, static_cast<T*>(a.out), a.d,
             a.eps);
    }
  };

  static void run(const device::GatedResidual& a, DeviceStream stream) {
    const bool wide =
        is_aligned({a.x, a.y, a.gate, a.shift, a.scale, a.out}) && a.d % kVector<T> == 0;
    for_width<Launch>(wide, a.d, a, stream);
  }
};

template <typename T>
struct RmsNorm {
  static constexpr const char* kName = "rms_norm";

  template <int kValues, bool kWide>
  struct Launch {
    static void run(const float* x, const float* weight, T* out, int64_t rows, int64_t d, float eps,
                    DeviceStream stream) {
      const RowGeometry geometry(kName, rows, d);
      launch(kName, rms_norm_kernel<T, kValues, kWide>, geometry.grid, geometry.block, stream, x,
             weight, out, d, eps);
    }
  };

  static void run(const float* x, const float* weight, void* out, int64_t rows, int64_t d,
                  float eps, DeviceStream stream) {
    const bool wide = is_aligned({x, weight, out}) && d % kVector<T> == 0;
    for_width<Launch>(wide, d, x, weight, static_cast<T*>(out), rows, d, eps, stream);
  }
};

}  // namespace

void layer_norm_modulate(Element type, const device::LayerNormModulate& arguments,
                         DeviceStream stream) {
  if (arguments.rows == 0) return;
  dispatch<LayerNormModulate>(type, arguments, stream);
}

void gated_residual(Element type, const device::GatedResidual& arguments, DeviceStream stream) {
  if (arguments.rows == 0) return;
  dispatch<GatedResidual>(type, arguments, stream);
}

void rms_norm(Element type, const float* x, const float* weight, void* out, int64_t rows, int64_t d,
              float eps, DeviceStream stream) {
  if (rows == 0) return;
  dispatch<RmsNorm>(type, x, weight, out, rows, d, eps, stream);
}

}  // namespace jitflux::kernels::cuda
