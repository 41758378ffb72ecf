// Weights from a file into device memory: through two page-locked buffers, so that the file is read
// while the device copies.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstddef>
#include <memory>

#include "runtime/device.h"
#include "weights/weight_file.h"

namespace jitflux {

// Used inside one DeviceScope's thread and device.
class DeviceUploader {
 public:
  DeviceUploader();

  // target = source, converted to the target's type. target: contiguous, on the device, as many
  // elements as the source. Returns when the source has been read; what is queued on the engine's
  // stream from then on sees the weights.
  void upload(const at::Tensor& target, const WeightTensor& source);

 private:
  struct Stage {
    at::Tensor memory;  // page-locked
    std::shared_ptr<CopyStream::Mark> copied;
  };

  std::array<Stage, 2> stages_;
  size_t next_ = 0;
  std::unique_ptr<CopyStream> copies_;  // last: its end waits for copies from the stages
};

}  // namespace jitflux
