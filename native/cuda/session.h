// DeviceSession: a device and a stream of it, current on the thread that made the session.
#pragma once

#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <functional>
#include <memory>

#include "runtime/device.h"

namespace jitflux::cuda {

struct GraphPool;

class CudaSession final : public DeviceSession {
 public:
  explicit CudaSession(c10::DeviceIndex device);
  // On the same thread; puts back the device and stream that were current before.
  ~CudaSession() override;
  CudaSession(const CudaSession&) = delete;
  CudaSession& operator=(const CudaSession&) = delete;

  kernels::DeviceStream stream() const override;
  void synchronize() override;
  std::unique_ptr<DeviceGraph> record(const std::function<void()>& work) override;
  std::unique_ptr<CopyStream> copy_stream(bool timed) override;

 private:
  // From LibTorch's pool, because only those are known to its allocator and guards, and not the
  // default stream, which cannot be captured.
  const c10::cuda::CUDAStream stream_;
  const c10::cuda::CUDAStreamGuard current_;
  cudaEvent_t done_ = nullptr;
  std::weak_ptr<GraphPool> graph_pool_;
};

}  // namespace jitflux::cuda
