// A device library whose device is the CPU: LibTorch's own operators run there anyway, our kernels
// by the emulation. The engine takes its device path through it on machines without a GPU. Never
// shipped.
#include <ATen/ops/empty.h>

#include <chrono>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "runtime/device.h"

namespace jitflux {

namespace {

// Runs its work at every launch. Results are ordinary tensors, not shared between graphs.
class EmulatedGraph : public DeviceGraph {
 public:
  explicit EmulatedGraph(std::function<void()> work) : work_(std::move(work)) {}
  void launch() override { work_(); }

 private:
  std::function<void()> work_;
};

// Copies at once; there is nothing to wait for.
class EmulatedCopyStream : public CopyStream {
 public:
  void upload(void* device, const void* pinned, size_t bytes) override {
    const auto begin = std::chrono::steady_clock::now();
    std::memcpy(device, pinned, bytes);
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begin;
    statistics_.bytes += bytes;
    statistics_.copy_milliseconds += took.count();
  }
  std::shared_ptr<Mark> mark() override { return std::make_shared<Mark>(); }
  void wait(const Mark&) override {}
  void engine_waits(const Mark&) override {}
  void wait_for_engine() override {}
  TransferStatistics take_statistics() override {
    return std::exchange(statistics_, TransferStatistics{});
  }

 private:
  TransferStatistics statistics_;
};

class EmulatedSession : public DeviceSession {
 public:
  kernels::DeviceStream stream() const override { return nullptr; }
  void synchronize() override {}
  std::unique_ptr<DeviceGraph> record(const std::function<void()>& work) override {
    return std::make_unique<EmulatedGraph>(work);
  }
  std::unique_ptr<CopyStream> copy_stream() override {
    return std::make_unique<EmulatedCopyStream>();
  }
};

class EmulatedBackend : public DeviceBackend {
 public:
  int count() noexcept override { return 1; }
  std::string unavailable_reason() override { return {}; }
  DeviceInfo info(int index) override {
    check(index);
    DeviceInfo info;
    info.name = "CUDA emulation";
    info.major = 8;
    info.multiprocessors = 1;
    info.total_bytes = kMemoryBytes;
    info.free_bytes = kMemoryBytes;
    return info;
  }
  at::Device device(int index) const override {
    check(index);
    return {at::kCPU};
  }
  const kernels::DeviceKernels& kernels() const override { return kernels::cuda_kernels(); }
  at::Tensor pinned(int64_t bytes) override { return at::empty({bytes}, at::kByte); }
  std::unique_ptr<DeviceSession> enter(int index) override {
    check(index);
    return std::make_unique<EmulatedSession>();
  }
  void release_cached_memory(int index) override { check(index); }
  void reset_peak(int index) override { check(index); }

 private:
  // What it says it has: plenty for tests.
  static constexpr uint64_t kMemoryBytes = uint64_t{64} << 30;

  static void check(int index) {
    if (index != 0) throw std::out_of_range("device " + std::to_string(index));
  }
};

DeviceBackend* backend() {
  static auto* const instance = new EmulatedBackend;
  return instance;
}

}  // namespace

}  // namespace jitflux

extern "C" __attribute__((visibility("default"))) const jitflux::DeviceLibrary*
jit_flux_cuda_backend() {
  static constexpr jitflux::DeviceLibrary kLibrary = {JIT_FLUX_VERSION, JIT_FLUX_LIBTORCH_VERSION,
                                                      jitflux::backend};
  return &kLibrary;
}
