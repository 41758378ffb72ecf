// Accelerators, as the engine sees them. The core knows no CUDA: a device library
// (native/cuda, libjit_flux_cuda.so) implements these interfaces and is opened at run time.
//
// Threads. Everything that one Node environment does on a device runs on one inference thread and
// one stream: a DeviceSession belongs to the thread that entered it. Environments (worker threads)
// that use the same device have sessions and streams of their own. count(), info() and kernels()
// may be called from any thread.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/device_kernels.h"

namespace jitflux {

struct DeviceInfo {
  std::string name;
  int major = 0;  // compute capability
  int minor = 0;
  int multiprocessors = 0;
  uint64_t total_bytes = 0;
  uint64_t free_bytes = 0;       // as the driver sees it; 0 until a session has started the device
  uint64_t allocated_bytes = 0;  // by tensors of this process
  uint64_t reserved_bytes = 0;   // held by LibTorch's allocator, tensors included
  uint64_t peak_bytes = 0;       // most that was allocated since reset_peak
};

// What a CopyStream did, by the device's clock.
struct TransferStatistics {
  uint64_t bytes = 0;
  double copy_milliseconds = 0;   // the copies took
  double stall_milliseconds = 0;  // the engine's stream waited for them
};

// Uploads beside the computation. Used on the thread of the session it was made in.
class CopyStream {
 public:
  // A point in the sequence of uploads.
  class Mark {
   public:
    virtual ~Mark() = default;
  };

  virtual ~CopyStream() = default;
  // Queues a copy from pinned host memory, which must stay as it is until a later mark is reached.
  virtual void upload(void* device, const void* pinned, size_t bytes) = 0;
  virtual std::shared_ptr<Mark> mark() = 0;
  // Blocks this thread until the mark is reached.
  virtual void wait(const Mark& mark) = 0;
  // Work queued on the engine's stream from now on waits for the mark.
  virtual void engine_waits(const Mark& mark) = 0;
  // Uploads queued from now on wait for what has been queued on the engine's stream.
  virtual void wait_for_engine() = 0;
  // Sums since the last call, zero unless timed. The session must have been synchronised.
  virtual TransferStatistics take_statistics() = 0;
};

// Recorded work, launched as one.
class DeviceGraph {
 public:
  virtual ~DeviceGraph() = default;
  virtual void launch() = 0;
};

// A device and its engine's stream, current on this thread while the session lives: LibTorch's
// operators and our kernels queue there.
class DeviceSession {
 public:
  virtual ~DeviceSession() = default;
  virtual kernels::DeviceStream stream() const = 0;
  // Waits, without spinning, until everything queued has run; throws what went wrong meanwhile.
  virtual void synchronize() = 0;
  // Records what `work` queues instead of running it. `work` must neither synchronise nor read
  // results, and its tensors must live as long as the graph. Memory it allocates belongs to the
  // graphs of this session's device, which share it: their results are overwritten by the next
  // launch of any of them.
  virtual std::unique_ptr<DeviceGraph> record(const std::function<void()>& work) = 0;
  // timed: keeps statistics.
  virtual std::unique_ptr<CopyStream> copy_stream(bool timed) = 0;
};

class DeviceBackend {
 public:
  virtual ~DeviceBackend() = default;
  // Number of devices; 0 where there is no driver. Does not throw.
  virtual int count() noexcept = 0;
  // Why count() is 0, for messages; empty if it is not.
  virtual std::string unavailable_reason() = 0;
  virtual DeviceInfo info(int index) = 0;
  virtual at::Device device(int index) const = 0;
  virtual const kernels::DeviceKernels& kernels() const = 0;
  // Page-locked host memory: [bytes] uint8.
  virtual at::Tensor pinned(int64_t bytes) = 0;
  // One session per thread and device.
  virtual std::unique_ptr<DeviceSession> enter(int index) = 0;
  // Gives what LibTorch's allocator holds unused back to the driver, on every device: it cannot do
  // so for one.
  virtual void release_cached_memory(int index) = 0;
  virtual void reset_peak(int index) = 0;
};

// What a device library exports, as the C function of this name and type. Both sides must have been
// built from the same sources against the same LibTorch: the strings are compared.
struct DeviceLibrary {
  const char* version;          // of jit-flux
  const char* libtorch;         // that it was built against
  DeviceBackend* (*backend)();  // a singleton, never destroyed
};
using DeviceLibraryFunction = const DeviceLibrary* (*)();
inline constexpr const char* kDeviceLibraryFunction = "jit_flux_cuda_backend";

// ---- the core's side: native/runtime/device.cc ----

// Opens a device library; once per process, later calls with the same path do nothing. Throws
// kNative (kDeviceUnavailable if it was built for another version). `version`, `libtorch`: ours.
void open_device_library(const std::string& path, const char* version, const char* libtorch);

// The opened library's backend, or null.
DeviceBackend* device_backend();

// Index of the accelerator that `device` is on, or -1 for the CPU.
int device_index(const at::Device& device);
inline int device_index(const at::Tensor& tensor) { return device_index(tensor.device()); }

// Makes the session of device `index` current on this thread; -1: the CPU, nothing to do. The
// session is made when a thread first enters and kept until leave_devices().
class DeviceScope {
 public:
  explicit DeviceScope(int index);
  ~DeviceScope();
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  int outer_;
};

// Ends this thread's sessions; no scope may be left. To be called while the thread still runs its
// own code: the end of a session restores LibTorch's current stream, a thread-local variable that
// is made after ours and therefore destroyed before it (writing there then corrupts the heap).
void leave_devices() noexcept;

// Of the innermost scope on this thread: the session (null on the CPU), its kernels (likewise) and
// the device on which LibTorch's tensors belong.
DeviceSession* current_session();
const kernels::DeviceKernels* current_kernels();
at::Device current_device();

// Whether tensors here are on an accelerator, so that our kernels are current_kernels().
inline bool on_accelerator() { return current_session() != nullptr; }

// The stream that kernels queue on; on an accelerator only.
inline kernels::DeviceStream current_stream() { return current_session()->stream(); }

// Of new tensors there.
at::TensorOptions options_here(at::ScalarType dtype);

// A token list where kernels read it: on an accelerator a copy, else the list itself, which must
// outlive the tensor. Undefined if it is empty.
at::Tensor on_current_device(const std::vector<int32_t>& list);

// How kernels call an activation type.
kernels::Element element_of(at::ScalarType dtype);

}  // namespace jitflux
