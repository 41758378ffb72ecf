// The emulation itself: mistakes in kernels that it must find.
#if defined(JIT_FLUX_CUDA_EMULATION)

#include <stdexcept>

#include "kernels/cuda/launch.cuh"
#include "tests.h"

namespace jitflux::kernel_tests {

namespace {

constexpr int kThreads = 128;

__global__ void divergent_barrier(int*) {
  if (threadIdx.x == 3) return;
  __syncthreads();
}

__global__ void two_barriers(int*) {
  if (threadIdx.x % 2 == 0) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void absent_lanes(int* out) {
  if (threadIdx.x % 32 < 16) out[threadIdx.x] = __shfl_xor_sync(0xFFFFFFFFu, 1, 1);
}

__global__ void source_outside_of_mask(int* out) {
  if (threadIdx.x % 32 < 16) out[threadIdx.x] = __shfl_sync(0xFFFFu, 1, 20);
}

[[maybe_unused]] __global__ void write_beyond(int* out) { out[threadIdx.x + 1] = 1; }

// Reads what another thread of the block writes, without a barrier between.
__global__ void race(int* out) {
  __shared__ int values[kThreads];
  const unsigned thread = threadIdx.x;
  values[thread] = static_cast<int>(thread);
  out[thread] = values[(thread + 1) % kThreads];
}

__global__ void sums(int* out) {
  __shared__ int values[kThreads];
  const int thread = static_cast<int>(threadIdx.x);
  values[thread] = thread;
  __syncthreads();
  int sum = values[(thread + 1) % kThreads] + __shfl_down_sync(0xFFFFFFFFu, thread, 1, 16);
  sum += static_cast<int>(__ballot_sync(0xFFFFFFFFu, thread % 2)) & 0xFF;
  out[thread] = sum;
}

}  // namespace

void test_emulation(Report& report) {
  report.begin("emulation");
  int* out = nullptr;
  check_runtime(cudaMalloc(reinterpret_cast<void**>(&out), kThreads * sizeof(int)), "cudaMalloc");
  const auto run = [&](void (*kernel)(int*), unsigned threads = kThreads) {
    kernels::cuda::launch("test", kernel, {1, 1}, dim3(threads), nullptr, out);
  };
  const auto outcome = [&](const char* name, bool good) {
    report.measure("exact", "difference", 0.0, good ? 0.0 : 1.0, name, 0);
  };
  const auto refuses = [&](const char* name, void (*kernel)(int*), const std::string& message,
                           unsigned threads = kThreads) {
    std::string told;
    try {
      run(kernel, threads);
    } catch (const std::runtime_error& error) {
      told = error.what();
    }
    outcome(name, told.find(message) != std::string::npos);
  };
  for (const uint64_t seed : {0, 1, 2}) {
    cuda_emulation::set_schedule(seed);
    refuses("barrier without a thread", divergent_barrier, "127 threads wait at a barrier");
    refuses("two barriers", two_barriers, "divergence");
    refuses("lanes that never come", absent_lanes, "64 for lanes of their warp");
    refuses("lane without part", source_outside_of_mask, "takes no part");
    refuses("too many threads", sums, "invalid configuration", 1025);
    run(sums);
    bool right = true;
    for (int i = 0; i < kThreads; ++i) {
      const int neighbour = i % 16 == 15 ? i : i + 1;
      right = right && out[i] == (i + 1) % kThreads + neighbour + 0xAA;
    }
    outcome("barrier, shuffle and ballot", right);
  }
  // A race shows as a result that depends on the order.
  bool depends = false;
  std::vector<int> first;
  for (const uint64_t seed : {0, 1, 2, 3}) {
    cuda_emulation::set_schedule(seed);
    run(race);
    const std::vector<int> now(out, out + kThreads);
    if (seed == 0) first = now;
    depends = depends || now != first || now[0] == -1;
  }
  outcome("race", depends);
  cuda_emulation::set_schedule(0);
#if !defined(__SANITIZE_ADDRESS__)  // which would end the process
  refuses("write beyond", write_beyond, "write after a buffer");
  // Mended, or every later launch would find it.
  out[kThreads] = static_cast<int>(0xA5A5A5A5);
#endif
  check_runtime(cudaFree(out), "cudaFree");
}

}  // namespace jitflux::kernel_tests

#endif
