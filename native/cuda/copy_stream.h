// CopyStream with a CUDA stream of its own. Nothing here waits on the host but wait() and the
// destructor; statistics come from timed events on both streams.
#pragma once

#include <c10/core/Device.h>
#include <cuda_runtime_api.h>

#include <memory>
#include <vector>

#include "cuda/event_pool.h"
#include "runtime/device.h"

namespace jitflux::cuda {

class CudaCopyStream final : public CopyStream {
 public:
  // `engine`: the session's stream, which must be current on this thread. timed: keeps statistics.
  CudaCopyStream(c10::DeviceIndex device, cudaStream_t engine, bool timed);
  // Waits for the uploads that were queued: their memory may go after this.
  ~CudaCopyStream() override;
  CudaCopyStream(const CudaCopyStream&) = delete;
  CudaCopyStream& operator=(const CudaCopyStream&) = delete;

  void upload(void* device, const void* pinned, size_t bytes) override;
  std::shared_ptr<Mark> mark() override;
  void wait(const Mark& mark) override;
  void engine_waits(const Mark& mark) override;
  void wait_for_engine() override;
  // What has not been reached on the device yet is left for the next call.
  TransferStatistics take_statistics() override;

 private:
  // Work between two events on one stream.
  struct Span {
    Event start;
    Event end;
    uint64_t bytes = 0;
  };

  // Ends the uploads' current span, if there is one, at `end`.
  void end_span(const Event& end);
  // Moves the spans that have ended into statistics_.
  void add_up();

  const c10::DeviceIndex device_;
  const cudaStream_t engine_;
  const bool timed_;
  cudaStream_t stream_ = nullptr;
  std::shared_ptr<EventPool> events_;
  Span uploading_;  // start is null: no upload since the last mark
  std::vector<Span> copies_;
  std::vector<Span> stalls_;
  TransferStatistics statistics_;  // of spans that were added up
};

}  // namespace jitflux::cuda
