// A device library whose device is the CPU: LibTorch's own operators run there anyway, our kernels
// by the emulation. The engine takes its device path through it on machines without a GPU. Never
// shipped.
#include <ATen/ops/empty.h>

#include <chrono>
#include <cstring>
#include <deque>
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

// Copies as late as it may: whoever reads without having waited finds the old bytes.
class EmulatedCopyStream : public CopyStream {
 public:
  explicit EmulatedCopyStream(bool timed) : timed_(timed) {}
  ~EmulatedCopyStream() override { run(queued_); }

  void upload(void* device, const void* pinned, size_t bytes) override {
    pending_.push_back({device, pinned, bytes});
    ++queued_;
  }
  std::shared_ptr<Mark> mark() override { return std::make_shared<Point>(queued_); }
  void wait(const Mark& mark) override { run(static_cast<const Point&>(mark).position); }
  void engine_waits(const Mark& mark) override { wait(mark); }
  void wait_for_engine() override {
  }  // the engine's work has run when the call that queues it returns
  TransferStatistics take_statistics() override {
    return std::exchange(statistics_, TransferStatistics{});
  }

 private:
  struct Point : Mark {
    explicit Point(uint64_t at) : position(at) {}
    uint64_t position;  // uploads before it
  };
  struct Upload {
    void* device;
    const void* pinned;
    size_t bytes;
  };

  void run(uint64_t until) {
    while (done_ < until) {
      const Upload& next = pending_.front();
      const auto begin = std::chrono::steady_clock::now();
      std::memcpy(next.device, next.pinned, next.bytes);
      const std::chrono::duration<double, std::milli> took =
          std::chrono::steady_clock::now() - begin;
      if (timed_) {
        statistics_.bytes += next.bytes;
        statistics_.copy_milliseconds += took.count();
        statistics_.stall_milliseconds += took.count();
      }
      pending_.pop_front();
      ++done_;
    }
  }

  bool timed_;
  std::deque<Upload> pending_;
  uint64_t queued_ = 0;
  uint64_t done_ = 0;
  TransferStatistics statistics_;
};

class EmulatedSession : public DeviceSession {
 public:
  kernels::DeviceStream stream() const override { return nullptr; }
  void synchronize() override {}
  std::unique_ptr<DeviceGraph> record(const std::function<void()>& work) override {
    return std::make_unique<EmulatedGraph>(work);
  }
  std::unique_ptr<CopyStream> copy_stream(bool timed) override {
    return std::make_unique<EmulatedCopyStream>(timed);
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
