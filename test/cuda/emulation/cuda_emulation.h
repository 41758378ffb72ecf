// Stands in for CUDA's headers (native/kernels/cuda/cuda_api.cuh) so that g++ compiles the kernels
// and the CPU runs them, thread by thread, with the device's semantics. For tests and development
// only; emulation.cc holds the scheduler.
//
// What it checks: barriers that not all threads of a block reach, or at different places; warp
// operations whose lanes never meet; lanes read that take no part; grids, blocks and shared memory
// beyond the limits; writes outside of buffers of cudaMalloc (after every launch, or at once with
// -fsanitize=address). Shared memory holds NaNs before each block. Misaligned vectors and static
// arrays' bounds: the build adds -fsanitize=alignment,bounds. Violations throw from the launch.
//
// Threads of a block run one after another, each until it has to wait for others; set_schedule
// changes the order, so that code which depends on it gives other results.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

// ---- language

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
// One block runs at a time, so its shared variables can be static ones, gathered in a section that
// the scheduler overwrites between blocks. Kernels and helpers with shared variables must have
// internal linkage (GCC does not put inline functions' statics into named sections).
#define __shared__ static __attribute__((section("cuda_shared_memory")))

// ---- vector types

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline int2 make_int2(int x, int y) { return {x, y}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// ---- the scheduler's side

namespace jitflux::cuda_emulation {

// Seed 0: threads and blocks in their order; any other: in an order drawn from the seed.
void set_schedule(uint64_t seed);

enum class WarpOperation { kSync, kExchange, kBallot };

// Waits until all lanes of `mask` have come with the same operation. kExchange: returns the value
// of lane `source` of the warp; kBallot: a bit per lane whose value is not 0.
uint64_t warp_operation(WarpOperation operation, unsigned mask, uint64_t value, int source);
void block_barrier(const char* file, int line);
int lane_index();

using ThreadFunction = void (*)(void* arguments);

}  // namespace jitflux::cuda_emulation

// Of the running thread.
extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;
inline constexpr int warpSize = 32;

// ---- synchronisation and warps

inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  jitflux::cuda_emulation::block_barrier(file, line);
}
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu) {
  jitflux::cuda_emulation::warp_operation(jitflux::cuda_emulation::WarpOperation::kSync, mask, 0,
                                          0);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return static_cast<unsigned>(jitflux::cuda_emulation::warp_operation(
      jitflux::cuda_emulation::WarpOperation::kBallot, mask, predicate != 0 ? 1 : 0, 0));
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) == mask;
}

namespace jitflux::cuda_emulation {

template <typename T>
T exchange(unsigned mask, T value, int source) {
  static_assert(sizeof(T) <= sizeof(uint64_t) && std::is_trivially_copyable_v<T>);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = warp_operation(WarpOperation::kExchange, mask, bits, source);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace jitflux::cuda_emulation

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = warpSize) {
  const int lane = jitflux::cuda_emulation::lane_index();
  const int segment = lane / width * width;
  return jitflux::cuda_emulation::exchange(mask, value, segment + (source & (width - 1)));
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = warpSize) {
  const int lane = jitflux::cuda_emulation::lane_index();
  const int source = lane ^ lane_mask;
  // Lanes of later segments are out of reach.
  return jitflux::cuda_emulation::exchange(mask, value,
                                           source / width > lane / width ? lane : source);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize) {
  const int lane = jitflux::cuda_emulation::lane_index();
  const int source = lane + static_cast<int>(delta);
  return jitflux::cuda_emulation::exchange(mask, value,
                                           source / width == lane / width ? source : lane);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize) {
  const int lane = jitflux::cuda_emulation::lane_index();
  const int source = lane - static_cast<int>(delta);
  const bool inside = source >= 0 && source / width == lane / width;
  return jitflux::cuda_emulation::exchange(mask, value, inside ? source : lane);
}

// Threads only give way where they wait, so plain accesses are atomic.
template <typename T>
T atomicAdd(T* address, T value) {
  const T old = *address;
  *address = old + value;
  return old;
}
template <typename T>
T atomicMin(T* address, T value) {
  const T old = *address;
  *address = std::min(old, value);
  return old;
}
template <typename T>
T atomicMax(T* address, T value) {
  const T old = *address;
  *address = std::max(old, value);
  return old;
}
template <typename T>
T atomicCAS(T* address, T expected, T value) {
  const T old = *address;
  if (old == expected) *address = value;
  return old;
}

// ---- arithmetic

using std::isnan;
using std::max;
using std::min;

template <typename T>
T __ldg(const T* address) {
  return *address;
}
inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline float __int_as_float(int bits) { return std::bit_cast<float>(bits); }
inline int __float_as_int(float value) { return std::bit_cast<int>(value); }
inline float rsqrtf(float x) { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(x))); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdividef(float a, float b) {
  const float magnitude = std::fabs(b);
  return magnitude > 0x1p126f && magnitude < INFINITY ? a * 0.0f : a / b;
}

struct __nv_bfloat16 {
  uint16_t bits;
};
struct __nv_bfloat162 {
  __nv_bfloat16 x, y;
};
struct __half {
  uint16_t bits;
};
struct __half2 {
  __half x, y;
};

inline float __bfloat162float(__nv_bfloat16 value) {
  return __uint_as_float(static_cast<unsigned>(value.bits) << 16);
}
inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  if (std::isnan(value)) return {0x7FFF};
  const unsigned bits = __float_as_uint(value);
  return {static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16)};
}
inline __nv_bfloat162 __floats2bfloat162_rn(float a, float b) {
  return {__float2bfloat16_rn(a), __float2bfloat16_rn(b)};
}

inline float __half2float(__half value) {
  const unsigned sign = static_cast<unsigned>(value.bits & 0x8000u) << 16;
  const unsigned exponent = (value.bits >> 10) & 0x1Fu;
  const unsigned mantissa = value.bits & 0x3FFu;
  if (exponent == 0x1F) return __uint_as_float(sign | 0x7F800000u | mantissa << 13);
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  return __uint_as_float(sign | (exponent + 112) << 23 | mantissa << 13);
}
inline __half __float2half_rn(float value) {
  const unsigned bits = __float_as_uint(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const float magnitude = std::fabs(value);
  if (std::isnan(value)) return {0x7FFF};
  if (magnitude >= 65520.0f) return {static_cast<uint16_t>(sign | 0x7C00u)};
  if (magnitude < 0x1p-14f) {  // subnormal: a multiple of 2^-24
    const float scaled = std::nearbyint(magnitude * 0x1p24f);
    return {static_cast<uint16_t>(sign | static_cast<uint16_t>(scaled))};
  }
  const unsigned rounded = (bits & 0x7FFFFFFFu) + 0xFFFu + ((bits >> 13) & 1u);
  return {static_cast<uint16_t>(sign | ((rounded >> 13) - (112u << 10)))};
}
inline float2 __half22float2(__half2 value) {
  return {__half2float(value.x), __half2float(value.y)};
}
inline __half2 __floats2half2_rn(float a, float b) {
  return {__float2half_rn(a), __float2half_rn(b)};
}

// ---- runtime

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
};
struct CUstream_st;
using cudaStream_t = CUstream_st*;
struct CUevent_st;
using cudaEvent_t = CUevent_st*;
enum cudaMemcpyKind {
  cudaMemcpyHostToHost,
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice,
  cudaMemcpyDefault,
};
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16, cudaDevAttrL2CacheSize = 38 };

struct cudaLaunchAttribute;
struct cudaLaunchConfig_t {
  dim3 gridDim;
  dim3 blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaMalloc(void** pointer, size_t bytes);
cudaError_t cudaFree(void* pointer);
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemset(void* to, int value, size_t bytes);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaEventCreate(cudaEvent_t* event);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream = nullptr);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end);

namespace jitflux::cuda_emulation {

cudaError_t run_grid(const cudaLaunchConfig_t& config, ThreadFunction thread, void* arguments);
// The block's dynamic shared memory.
void* dynamic_shared_memory();

}  // namespace jitflux::cuda_emulation

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  struct Call {
    void (*kernel)(Parameters...);
    std::tuple<Parameters...> arguments;
  } call{kernel, std::tuple<Parameters...>(arguments...)};
  return jitflux::cuda_emulation::run_grid(
      *config,
      [](void* data) {
        const auto* of = static_cast<const Call*>(data);
        std::apply(of->kernel, of->arguments);
      },
      &call);
}
