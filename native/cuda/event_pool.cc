#include "cuda/event_pool.h"

#include <c10/cuda/CUDAException.h>

#include "cuda/release.h"

namespace jitflux::cuda {

EventPool::~EventPool() {
  release_on(device_, [this] {
    for (const cudaEvent_t event : free_) C10_CUDA_IGNORE_ERROR(cudaEventDestroy(event));
  });
}

Event EventPool::take() {
  cudaEvent_t event = nullptr;
  {
    const std::lock_guard lock(mutex_);
    if (!free_.empty()) {
      event = free_.back();
      free_.pop_back();
    }
  }
  if (event == nullptr) C10_CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventBlockingSync));
  return Event(event,
               [pool = shared_from_this()](cudaEvent_t returned) { pool->put_back(returned); });
}

void EventPool::put_back(cudaEvent_t event) noexcept {
  try {
    const std::lock_guard lock(mutex_);
    free_.push_back(event);
  } catch (...) {  // no memory for the list
    C10_CUDA_IGNORE_ERROR(cudaEventDestroy(event));
  }
}

}  // namespace jitflux::cuda
