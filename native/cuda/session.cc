#include "cuda/session.h"

#include <c10/cuda/CUDAException.h>

#include "cuda/copy_stream.h"
#include "cuda/graph.h"
#include "cuda/release.h"

namespace jitflux::cuda {

CudaSession::CudaSession(c10::DeviceIndex device)
    : stream_(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device)), current_(stream_) {
  C10_CUDA_CHECK(cudaEventCreateWithFlags(&done_, cudaEventBlockingSync | cudaEventDisableTiming));
}

CudaSession::~CudaSession() {
  release_on(stream_.device_index(), [this] { C10_CUDA_IGNORE_ERROR(cudaEventDestroy(done_)); });
}

kernels::DeviceStream CudaSession::stream() const { return stream_.stream(); }

void CudaSession::synchronize() {
  check_not_recording("Synchronisation");
  // An event made for it sleeps; cudaStreamSynchronize would spin for the length of a step.
  C10_CUDA_CHECK(cudaEventRecord(done_, stream_));
  C10_CUDA_CHECK(cudaEventSynchronize(done_));
}

std::unique_ptr<DeviceGraph> CudaSession::record(const std::function<void()>& work) {
  std::shared_ptr<GraphPool> pool = graph_pool_.lock();
  if (!pool) graph_pool_ = pool = std::make_shared<GraphPool>();
  return std::make_unique<CudaGraph>(stream_, std::move(pool), work);
}

std::unique_ptr<CopyStream> CudaSession::copy_stream(bool timed) {
  return std::make_unique<CudaCopyStream>(stream_.device_index(), stream_, timed);
}

}  // namespace jitflux::cuda
