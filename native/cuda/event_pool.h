// Timed CUDA events that are used again. Recording one costs about a microsecond, creating one
// several and a lock of the driver.
#pragma once

#include <c10/core/Device.h>
#include <cuda_runtime_api.h>

#include <memory>
#include <mutex>
#include <type_traits>
#include <vector>

namespace jitflux::cuda {

// Goes back to its pool when the last copy is gone, on whichever thread.
using Event = std::shared_ptr<std::remove_pointer_t<cudaEvent_t>>;

class EventPool : public std::enable_shared_from_this<EventPool> {
 public:
  explicit EventPool(c10::DeviceIndex device) : device_(device) {}
  ~EventPool();
  EventPool(const EventPool&) = delete;
  EventPool& operator=(const EventPool&) = delete;

  // With timing; cudaEventSynchronize on it does not spin.
  Event take();

 private:
  void put_back(cudaEvent_t event) noexcept;

  const c10::DeviceIndex device_;
  std::mutex mutex_;
  std::vector<cudaEvent_t> free_;
};

}  // namespace jitflux::cuda
