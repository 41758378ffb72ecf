// DeviceGraph: a CUDA graph recorded from a stream.
//
// With the runtime's own calls rather than at::cuda::CUDAGraph, whose capture_end() leaves
// LibTorch's allocator routing to the graph's pool if the capture was invalidated, and with it a
// filter that points to the destroyed graph (seen in the sources before 2.14). What CUDAGraph adds
// for random numbers is not needed: an operator that draws some is refused by LibTorch during
// `work`.
#pragma once

#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAStream.h>

#include <functional>
#include <memory>
#include <shared_mutex>

#include "runtime/device.h"

namespace jitflux::cuda {

// The memory that a session's graphs allocate. LibTorch does not accept a pool whose last graph is
// gone, so the pool lives exactly as long as graphs share it.
struct GraphPool {
  const decltype(at::cuda::graph_pool_handle()) id = at::cuda::graph_pool_handle();
};

class CudaGraph final : public DeviceGraph {
 public:
  // Records what `work` queues on `stream`, which must be current on this thread. What `work`
  // throws comes out as it is; stream and allocator are then as before.
  CudaGraph(const c10::cuda::CUDAStream& stream, std::shared_ptr<GraphPool> pool,
            const std::function<void()>& work);
  // On any thread; not while the graph is running.
  ~CudaGraph() override;
  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;

  void launch() override;

 private:
  // A reference to the pool in LibTorch's allocator. `work` allocates there between start() and
  // stop().
  class PoolReference {
   public:
    PoolReference(const c10::cuda::CUDAStream& stream, std::shared_ptr<GraphPool> pool);
    ~PoolReference();
    PoolReference(const PoolReference&) = delete;
    PoolReference& operator=(const PoolReference&) = delete;
    void start();
    void stop() noexcept;

   private:
    const c10::cuda::CUDAStream stream_;
    const std::shared_ptr<GraphPool> pool_;
    bool held_ = false;
    bool routing_ = false;
  };

  const c10::cuda::CUDAStream stream_;
  PoolReference pool_;
  cudaGraphExec_t executable_ = nullptr;
};

// Throws if this thread is recording a graph; `what` is the operation that may not happen then.
// Said here because CUDA would invalidate the recording and report something less clear, later.
void check_not_recording(const char* what);

// Held shared while a graph is recorded, on any device and thread. LibTorch's emptyCache() goes
// over all devices and fails on one that records.
std::shared_mutex& recording_mutex();

}  // namespace jitflux::cuda
