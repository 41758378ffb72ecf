#include "cuda/copy_stream.h"

#include <c10/cuda/CUDAException.h>

#include <utility>

#include "cuda/graph.h"
#include "cuda/release.h"

namespace jitflux::cuda {

namespace {

// Spans that are kept before the finished ones are added up. About one pass of a large model.
constexpr size_t kKeptSpans = 256;

struct CudaMark final : CopyStream::Mark {
  explicit CudaMark(Event reached) : event(std::move(reached)) {}
  const Event event;
};

const Event& event_of(const CopyStream::Mark& mark) {
  return static_cast<const CudaMark&>(mark).event;
}

bool reached(const Event& event) {
  const cudaError_t status = cudaEventQuery(event.get());
  if (status == cudaErrorNotReady) {
    C10_CUDA_CLEAR_ERROR();
    return false;
  }
  C10_CUDA_CHECK(status);
  return true;
}

}  // namespace

CudaCopyStream::CudaCopyStream(c10::DeviceIndex device, cudaStream_t engine, bool timed)
    : device_(device),
      engine_(engine),
      timed_(timed),
      events_(std::make_shared<EventPool>(device)) {
  // Not from LibTorch's pool: those 32 streams are handed out in turn, and one that the engine has
  // as well would serialise what this is there to overlap.
  C10_CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
}

CudaCopyStream::~CudaCopyStream() {
  release_on(device_, [this] {
    cudaEvent_t done = nullptr;
    if (cudaEventCreateWithFlags(&done, cudaEventBlockingSync | cudaEventDisableTiming) ==
        cudaSuccess) {
      C10_CUDA_IGNORE_ERROR(cudaEventRecord(done, stream_));
      C10_CUDA_IGNORE_ERROR(cudaEventSynchronize(done));
      C10_CUDA_IGNORE_ERROR(cudaEventDestroy(done));
    }
    C10_CUDA_IGNORE_ERROR(cudaStreamDestroy(stream_));
  });
}

void CudaCopyStream::upload(void* device, const void* pinned, size_t bytes) {
  if (bytes == 0) return;
  check_not_recording("An upload");
  if (timed_ && !uploading_.start) {
    Event start = events_->take();
    C10_CUDA_CHECK(cudaEventRecord(start.get(), stream_));
    uploading_.start = std::move(start);
  }
  C10_CUDA_CHECK(cudaMemcpyAsync(device, pinned, bytes, cudaMemcpyHostToDevice, stream_));
  uploading_.bytes += bytes;
}

std::shared_ptr<CopyStream::Mark> CudaCopyStream::mark() {
  check_not_recording("A mark");
  Event event = events_->take();
  C10_CUDA_CHECK(cudaEventRecord(event.get(), stream_));
  end_span(event);
  return std::make_shared<CudaMark>(std::move(event));
}

void CudaCopyStream::end_span(const Event& end) {
  if (!uploading_.start) return;
  uploading_.end = end;
  copies_.push_back(std::exchange(uploading_, {}));
  // Statistics may never be asked for: their events must not pile up.
  if (copies_.size() + stalls_.size() >= kKeptSpans) add_up();
}

void CudaCopyStream::wait(const Mark& mark) {
  check_not_recording("A wait");
  C10_CUDA_CHECK(cudaEventSynchronize(event_of(mark).get()));
}

void CudaCopyStream::engine_waits(const Mark& mark) {
  check_not_recording("A wait");
  const Event& event = event_of(mark);
  // The usual case where copies keep up: nothing to wait for, and nothing to measure.
  if (reached(event)) return;
  if (!timed_) {
    C10_CUDA_CHECK(cudaStreamWaitEvent(engine_, event.get(), 0));
    return;
  }
  Span stall{events_->take(), events_->take()};
  C10_CUDA_CHECK(cudaEventRecord(stall.start.get(), engine_));
  C10_CUDA_CHECK(cudaStreamWaitEvent(engine_, event.get(), 0));
  C10_CUDA_CHECK(cudaEventRecord(stall.end.get(), engine_));
  stalls_.push_back(std::move(stall));
}

void CudaCopyStream::wait_for_engine() {
  check_not_recording("A wait");
  // The wait belongs to no span of copies: the next upload starts a new one behind it.
  if (uploading_.start) {
    const Event pause = events_->take();
    C10_CUDA_CHECK(cudaEventRecord(pause.get(), stream_));
    end_span(pause);
  }
  // What a stream waits for is settled when the wait is queued: the event can be used again at
  // once.
  const Event queued = events_->take();
  C10_CUDA_CHECK(cudaEventRecord(queued.get(), engine_));
  C10_CUDA_CHECK(cudaStreamWaitEvent(stream_, queued.get(), 0));
}

void CudaCopyStream::add_up() {
  const auto take = [](std::vector<Span>& spans, double& milliseconds, uint64_t* bytes) {
    size_t taken = 0;
    // In order: a span that has not ended ends the search.
    for (; taken < spans.size() && reached(spans[taken].end); ++taken) {
      float elapsed = 0;
      C10_CUDA_CHECK(
          cudaEventElapsedTime(&elapsed, spans[taken].start.get(), spans[taken].end.get()));
      milliseconds += elapsed;
      if (bytes != nullptr) *bytes += spans[taken].bytes;
    }
    spans.erase(spans.begin(), spans.begin() + static_cast<ptrdiff_t>(taken));
  };
  take(copies_, statistics_.copy_milliseconds, &statistics_.bytes);
  take(stalls_, statistics_.stall_milliseconds, nullptr);
}

TransferStatistics CudaCopyStream::take_statistics() {
  add_up();
  return std::exchange(statistics_, {});
}

}  // namespace jitflux::cuda
