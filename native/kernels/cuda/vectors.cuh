// Device side: values of the activation type in groups of 16 bytes, and sums over warps and blocks.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/cuda/cuda_api.cuh"

namespace jitflux::kernels::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xFFFFFFFFu;

// Values of T in 16 bytes.
template <typename T>
constexpr int kVector = 16 / static_cast<int>(sizeof(T));

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ __forceinline__ float to_float(__half value) { return __half2float(value); }

template <typename T>
__device__ __forceinline__ T from_float(float value);
template <>
__device__ __forceinline__ float from_float<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}
template <>
__device__ __forceinline__ __half from_float<__half>(float value) {
  return __float2half_rn(value);
}

template <typename T>
__device__ __forceinline__ float round_to(float value) {
  return to_float(from_float<T>(value));
}

// Within the range of T, if T is float16: FLUX's residual stream outgrows it, and an infinity would
// make every later norm NaN (diffusers clips there too). NaN stays NaN.
template <typename T>
__device__ __forceinline__ float clipped(float value) {
  if constexpr (std::is_same_v<T, __half>) {
    constexpr float kLargest = 65504.0f;
    return value > kLargest ? kLargest : value < -kLargest ? -kLargest : value;
  } else {
    return value;
  }
}

// The 4-byte words of a vector <-> float32 values; 4 / sizeof(T) of them per word.
template <typename T>
struct Word;

template <>
struct Word<float> {
  static __device__ __forceinline__ void unpack(uint32_t word, float* values) {
    values[0] = __uint_as_float(word);
  }
  static __device__ __forceinline__ uint32_t pack(const float* values) {
    return __float_as_uint(values[0]);
  }
};

template <>
struct Word<__nv_bfloat16> {
  static __device__ __forceinline__ void unpack(uint32_t word, float* values) {
    values[0] = __uint_as_float(word << 16);
    values[1] = __uint_as_float(word & 0xFFFF0000u);
  }
  static __device__ __forceinline__ uint32_t pack(const float* values) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(values[0], values[1]);
    uint32_t word;
    memcpy(&word, &pair, sizeof word);
    return word;
  }
};

template <>
struct Word<__half> {
  static __device__ __forceinline__ void unpack(uint32_t word, float* values) {
    __half2 pair;
    memcpy(&pair, &word, sizeof word);
    const float2 both = __half22float2(pair);
    values[0] = both.x;
    values[1] = both.y;
  }
  static __device__ __forceinline__ uint32_t pack(const float* values) {
    const __half2 pair = __floats2half2_rn(values[0], values[1]);
    uint32_t word;
    memcpy(&word, &pair, sizeof word);
    return word;
  }
};

template <typename T>
__device__ __forceinline__ void unpack(const uint4& raw, float* values) {
  constexpr int kPerWord = 4 / static_cast<int>(sizeof(T));
  Word<T>::unpack(raw.x, values);
  Word<T>::unpack(raw.y, values + kPerWord);
  Word<T>::unpack(raw.z, values + 2 * kPerWord);
  Word<T>::unpack(raw.w, values + 3 * kPerWord);
}

template <typename T>
__device__ __forceinline__ uint4 pack(const float* values) {
  constexpr int kPerWord = 4 / static_cast<int>(sizeof(T));
  uint4 raw;
  raw.x = Word<T>::pack(values);
  raw.y = Word<T>::pack(values + kPerWord);
  raw.z = Word<T>::pack(values + 2 * kPerWord);
  raw.w = Word<T>::pack(values + 3 * kPerWord);
  return raw;
}

// N consecutive values as float32. Wide: by 16-byte accesses, all N exist. Otherwise one by one,
// the first `count` (which may be negative or above N); the others read as zero.
template <bool kWide, int N, typename T>
__device__ __forceinline__ void load(const T* from, int64_t count, float* values) {
  if constexpr (kWide) {
    static_assert(N % kVector<T> == 0);
#pragma unroll
    for (int i = 0; i < N; i += kVector<T>) {
      unpack<T>(*reinterpret_cast<const uint4*>(from + i), values + i);
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = i < count ? to_float(from[i]) : 0.0f;
  }
}

template <bool kWide, int N, typename T>
__device__ __forceinline__ void store(T* to, int64_t count, const float* values) {
  if constexpr (kWide) {
    static_assert(N % kVector<T> == 0);
#pragma unroll
    for (int i = 0; i < N; i += kVector<T>) {
      *reinterpret_cast<uint4*>(to + i) = pack<T>(values + i);
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (i < count) to[i] = from_float<T>(values[i]);
    }
  }
}

// The same without conversion, so that NaNs keep their bits.
template <bool kWide, int N, typename T>
__device__ __forceinline__ void copy(const T* from, T* to, int64_t count) {
  if constexpr (kWide) {
    static_assert(N % kVector<T> == 0);
#pragma unroll
    for (int i = 0; i < N; i += kVector<T>) {
      *reinterpret_cast<uint4*>(to + i) = *reinterpret_cast<const uint4*>(from + i);
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (i < count) to[i] = from[i];
    }
  }
}

// Sum over groups of `lanes` neighbouring lanes, a power of two; every lane of a group gets the
// same bits. All lanes of the warp must take part.
__device__ __forceinline__ float group_sum(float value, int lanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, offset);
  }
  return value;
}

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, offset);
  }
  return value;
}

// Sum over a block of whole warps, the same bits in every thread. `partial`: shared memory for one
// value per warp, used for this sum only.
__device__ __forceinline__ float block_sum(float value, float* partial) {
  value = warp_sum(value);
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  if (warps == 1) return value;
  if (threadIdx.x % kWarp == 0) partial[threadIdx.x / kWarp] = value;
  __syncthreads();
  float sum = partial[0];
  for (int warp = 1; warp < warps; ++warp) sum += partial[warp];
  return sum;
}

}  // namespace jitflux::kernels::cuda
