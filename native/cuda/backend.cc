#include "cuda/backend.h"

#include <ATen/Context.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/util/Exception.h>
#include <cuda_runtime_api.h>

#include <cstdlib>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <vector>

#include "cuda/graph.h"
#include "cuda/release.h"
#include "cuda/session.h"

namespace jitflux::cuda {

namespace {

namespace allocator = c10::cuda::CUDACachingAllocator;

// The first cuDNN whose attention is right for sequences that are no multiple of 128 tokens, which
// a sparse step's never are: 9.15.1.
constexpr long kCudnnForAttention = 91501;

std::string cuda_version(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

// Devices that this process can use, found once: CUDA does not look again either.
struct Devices {
  int count = 0;
  std::string unavailable_reason;

  Devices() {
    // Starts the driver, but makes no context.
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status == cudaSuccess && count > 0) return;
    count = 0;
    C10_CUDA_CLEAR_ERROR();
    unavailable_reason = describe(status);
  }

  static const Devices& get() {
    static const auto* devices = new Devices;
    return *devices;
  }

 private:
  static std::string describe(cudaError_t status) {
    int driver = 0;  // 0: none is installed
    C10_CUDA_IGNORE_ERROR(cudaDriverGetVersion(&driver));
    if (driver == 0) return "No NVIDIA driver was found (libcuda.so.1)";
    if (status == cudaErrorInsufficientDriver) {
      // Within a major version, older drivers run newer runtimes.
      return "The NVIDIA driver is too old: it supports CUDA " + cuda_version(driver) +
             ", this build needs a driver for CUDA " + cuda_version(CUDART_VERSION / 1000 * 1000) +
             " or newer";
    }
    if (status == cudaErrorNoDevice || status == cudaSuccess) {
      const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
      std::string reason = "The NVIDIA driver found no GPU";
      if (visible != nullptr) reason += std::string(" (CUDA_VISIBLE_DEVICES=") + visible + ")";
      return reason;
    }
    return std::string("CUDA could not be started: ") + cudaGetErrorString(status);
  }
};

c10::DeviceIndex checked(int index) {
  const Devices& devices = Devices::get();
  TORCH_CHECK(devices.count > 0, devices.unavailable_reason);
  TORCH_CHECK(index >= 0 && index < devices.count, "There is no CUDA device ", index, ", only ",
              devices.count);
  return static_cast<c10::DeviceIndex>(index);
}

int attribute(cudaDeviceAttr which, int index) {
  int value = 0;
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&value, which, index));
  return value;
}

// LibTorch's own rule since 2.10, held here for every version and whatever else the process runs:
// on data centre GPUs from Hopper on, cuDNN's attention is the fastest.
bool prefers_cudnn_attention() {
  if (!at::Context::hasCuDNN() || at::Context::versionCuDNN() < kCudnnForAttention) return false;
  for (int index = 0; index < Devices::get().count; ++index) {
    const int major = attribute(cudaDevAttrComputeCapabilityMajor, index);
    if (major != 9 && major != 10) return false;
  }
  return true;
}

// LibTorch's settings, which are the process's.
void set_up_libtorch() {
  at::Context& context = at::globalContext();
  // float32 means float32: results are compared with the CPU's. cuDNN's default is TF32.
  context.setAllowTF32CuBLAS(false);
  context.setAllowTF32CuDNN(false);
  // Equal seeds give equal images. A search by timing would choose differently from run to run, and
  // again for every size.
  context.setDeterministicCuDNN(true);
  context.setBenchmarkCuDNN(false);
  // Sums that are split over blocks stay in float32 until the one rounding at the end, as in our
  // own kernels; in bfloat16 they would depend on the split, hence on the number of tokens.
  // Matrices of this size fill the device without a split, so that it costs nothing.
  context.setAllowBF16ReductionCuBLAS(false);
  context.setAllowFP16ReductionCuBLAS(false);
  if (prefers_cudnn_attention()) {
    const auto backend = [](at::SDPBackend which) { return static_cast<int64_t>(which); };
    context.setSDPPriorityOrder(
        {backend(at::SDPBackend::cudnn_attention), backend(at::SDPBackend::flash_attention),
         backend(at::SDPBackend::efficient_attention), backend(at::SDPBackend::math)});
  }
}

// Makes LibTorch ready for CUDA, once; cheap, and makes no context on any device.
void initialise() {
  static auto* once = new std::once_flag;
  std::call_once(*once, [] {
    TORCH_CHECK(at::Context::hasCUDA(), "LibTorch's CUDA libraries are not loaded");
    at::globalContext().lazyInitDevice(at::kCUDA);
    set_up_libtorch();
  });
}

class CudaBackend final : public DeviceBackend {
 public:
  int count() noexcept override { return Devices::get().count; }

  std::string unavailable_reason() override { return Devices::get().unavailable_reason; }

  // From any thread. Does not make the device's context, which costs a few hundred milliseconds and
  // megabytes: free_bytes is 0 until a session or a tensor has made it.
  DeviceInfo info(int index) override {
    const c10::DeviceIndex device = checked(index);
    initialise();
    cudaDeviceProp properties{};
    C10_CUDA_CHECK(cudaGetDeviceProperties(&properties, index));
    DeviceInfo info;
    info.name = properties.name;
    info.major = properties.major;
    info.minor = properties.minor;
    info.multiprocessors = properties.multiProcessorCount;
    info.total_bytes = properties.totalGlobalMem;
    if (c10::cuda::hasPrimaryContext(device)) {
      const c10::cuda::CUDAGuard guard(device);
      size_t free_bytes = 0;
      size_t total_bytes = 0;
      C10_CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total_bytes));
      info.free_bytes = free_bytes;
      info.total_bytes = total_bytes;
    }
    const auto statistics = allocator::getDeviceStats(device);
    constexpr auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    info.allocated_bytes = static_cast<uint64_t>(statistics.allocated_bytes[all].current);
    info.reserved_bytes = static_cast<uint64_t>(statistics.reserved_bytes[all].current);
    info.peak_bytes = static_cast<uint64_t>(statistics.allocated_bytes[all].peak);
    return info;
  }

  at::Device device(int index) const override {
    return at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(index));
  }

  const kernels::DeviceKernels& kernels() const override { return kernels::cuda_kernels(); }

  // With cudaHostAlloc rather than LibTorch's pinned allocator: that rounds up to a power of two
  // and keeps what was freed, and a ring of weight blocks is gigabytes. Called on a session's
  // thread; the tensor may be freed on any, which waits for copies that still read it.
  at::Tensor pinned(int64_t bytes) override {
    TORCH_CHECK(bytes >= 0, "Expected a number of bytes but received ", bytes);
    TORCH_CHECK(count() > 0, Devices::get().unavailable_reason);
    if (bytes == 0) return at::empty({0}, at::kByte);
    check_not_recording("Page-locking memory");
    void* memory = nullptr;
    const cudaError_t status =
        cudaHostAlloc(&memory, static_cast<size_t>(bytes), cudaHostAllocPortable);
    if (status == cudaErrorMemoryAllocation) C10_CUDA_CLEAR_ERROR();
    TORCH_CHECK_WITH(OutOfMemoryError, status != cudaErrorMemoryAllocation, "Could not page-lock ",
                     bytes, " bytes of host memory");
    C10_CUDA_CHECK(status);
    const auto release = [device = c10::cuda::current_device()](void* freed) {
      release_on(device, [freed] { C10_CUDA_IGNORE_ERROR(cudaFreeHost(freed)); });
    };
    return at::from_blob(memory, {bytes}, release, at::TensorOptions(at::kByte));
  }

  std::unique_ptr<DeviceSession> enter(int index) override {
    const c10::DeviceIndex device = checked(index);
    initialise();
    return std::make_unique<CudaSession>(device);
  }

  // LibTorch has this for all devices at once only: what another device's engine holds unused goes
  // as well, and it waits for that device.
  void release_cached_memory(int index) override {
    const c10::DeviceIndex device = checked(index);
    check_not_recording("Releasing memory");
    initialise();
    if (!c10::cuda::hasPrimaryContext(device)) return;
    const std::unique_lock lock(recording_mutex());
    const c10::cuda::CUDAGuard guard(device);
    allocator::emptyCache();
  }

  void reset_peak(int index) override {
    const c10::DeviceIndex device = checked(index);
    initialise();
    allocator::resetPeakStats(device);
  }
};

}  // namespace

DeviceBackend* backend() {
  static auto* singleton = new CudaBackend;
  return singleton;
}

}  // namespace jitflux::cuda
