#include "cuda/graph.h"

#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/util/Exception.h>

#include <mutex>
#include <thread>
#include <utility>

#include "cuda/release.h"

namespace jitflux::cuda {

namespace {

namespace allocator = c10::cuda::CUDACachingAllocator;

thread_local bool recording = false;

class RecordingScope {
 public:
  RecordingScope() : lock_(recording_mutex()) { recording = true; }
  ~RecordingScope() { recording = false; }
  RecordingScope(const RecordingScope&) = delete;
  RecordingScope& operator=(const RecordingScope&) = delete;

 private:
  const std::shared_lock<std::shared_mutex> lock_;
};

// From LibTorch 2.13 on, the allocator is told of captures as well; 2.11 has no such function.
template <typename Allocator>
void tell_capture(Allocator* to, c10::DeviceIndex device, bool begins) {
  if constexpr (requires { to->markCaptureBegin(device); }) {
    if (begins) {
      to->markCaptureBegin(device);
    } else {
      to->markCaptureEnd(device);
    }
  }
}

// A stream between begin and end of its capture. If it is not ended, what was captured is dropped.
class Capture {
 public:
  explicit Capture(const c10::cuda::CUDAStream& stream) : stream_(stream) {
    // Thread-local: other threads of the process may allocate or load kernels meanwhile.
    C10_CUDA_CHECK(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    capturing_ = true;
    tell_capture(allocator::get(), stream_.device_index(), true);
  }

  ~Capture() {
    if (!capturing_) return;
    try {
      cudaGraph_t dropped = nullptr;
      // Also after an error that invalidated the capture: only this makes the stream usable again.
      C10_CUDA_IGNORE_ERROR(end(&dropped));
      if (dropped != nullptr) C10_CUDA_IGNORE_ERROR(cudaGraphDestroy(dropped));
    } catch (...) {  // the allocator's
    }
  }

  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

  cudaError_t end(cudaGraph_t* captured) {
    capturing_ = false;
    const cudaError_t status = cudaStreamEndCapture(stream_, captured);
    tell_capture(allocator::get(), stream_.device_index(), false);
    return status;
  }

 private:
  const c10::cuda::CUDAStream stream_;
  bool capturing_ = false;
};

}  // namespace

std::shared_mutex& recording_mutex() {
  static auto* mutex = new std::shared_mutex;  // outlives every thread
  return *mutex;
}

void check_not_recording(const char* what) {
  TORCH_CHECK(!recording, what, " is not possible while a graph is being recorded");
}

CudaGraph::PoolReference::PoolReference(const c10::cuda::CUDAStream& stream,
                                        std::shared_ptr<GraphPool> pool)
    : stream_(stream), pool_(std::move(pool)) {}

void CudaGraph::PoolReference::start() {
  // By value: the allocator keeps the filter until stop(). Other threads may allocate for this
  // stream, but not for this graph.
  const auto ours = [stream = stream_.stream(),
                     thread = std::this_thread::get_id()](cudaStream_t asked) {
    return asked == stream && std::this_thread::get_id() == thread;
  };
  allocator::beginAllocateToPool(stream_.device_index(), pool_->id, ours);
  held_ = true;
  routing_ = true;
}

void CudaGraph::PoolReference::stop() noexcept {
  if (!std::exchange(routing_, false)) return;
  try {
    allocator::endAllocateToPool(stream_.device_index(), pool_->id);
  } catch (...) {  // not routing to it, the allocator says
  }
}

CudaGraph::PoolReference::~PoolReference() {
  stop();
  if (!held_) return;
  release_on(stream_.device_index(),
             [this] { allocator::releasePool(stream_.device_index(), pool_->id); });
}

CudaGraph::CudaGraph(const c10::cuda::CUDAStream& stream, std::shared_ptr<GraphPool> pool,
                     const std::function<void()>& work)
    : stream_(stream), pool_(stream, std::move(pool)) {
  check_not_recording("Recording another graph");
  const RecordingScope scope;
  // Routing before the capture and until after it: nothing of the capture is allocated or freed
  // under another rule.
  pool_.start();
  cudaGraph_t captured = nullptr;
  {
    Capture capture(stream_);
    work();
    C10_CUDA_CHECK(capture.end(&captured));
  }
  pool_.stop();
  // Frees at launch what an allocator on cudaMallocAsync has made part of the graph.
  const cudaError_t status = cudaGraphInstantiateWithFlags(
      &executable_, captured, cudaGraphInstantiateFlagAutoFreeOnLaunch);
  C10_CUDA_IGNORE_ERROR(cudaGraphDestroy(captured));
  C10_CUDA_CHECK(status);
}

CudaGraph::~CudaGraph() {
  release_on(stream_.device_index(),
             [this] { C10_CUDA_IGNORE_ERROR(cudaGraphExecDestroy(executable_)); });
}

void CudaGraph::launch() {
  check_not_recording("The launch of a graph");
  C10_CUDA_CHECK(cudaGraphLaunch(executable_, stream_));
}

}  // namespace jitflux::cuda
