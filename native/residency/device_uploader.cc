#include "residency/device_uploader.h"

#include <ATen/ops/empty.h>

#include <algorithm>

#include "residency/weight_tensors.h"

namespace jitflux {

namespace {

constexpr int64_t kStageBytes = int64_t{32} << 20;

// Elements [begin, begin + count) of a contiguous tensor.
WeightTensor part_of(const WeightTensor& tensor, int64_t begin, int64_t count) {
  WeightTensor part;
  part.dtype = tensor.dtype;
  part.shape = {count};
  part.strides = {1};
  part.file = tensor.file;
  part.offset = tensor.offset + static_cast<uint64_t>(begin) * element_size(tensor.dtype);
  return part;
}

}  // namespace

DeviceUploader::DeviceUploader() : copies_(current_session()->copy_stream(/*timed=*/false)) {}

void DeviceUploader::upload(const at::Tensor& target, const WeightTensor& source) {
  const at::ScalarType type = scalar_type(source.dtype);
  const int64_t total = source.numel();
  // Other tensors than contiguous ones are gathered as a whole.
  at::Tensor gathered;
  if (!source.contiguous()) {
    gathered = at::empty({total}, type);
    read_weight(source, gathered);
  }
  const auto element = static_cast<int64_t>(target.element_size());
  auto* to = static_cast<std::byte*>(target.mutable_data_ptr());
  // The target's memory may be what work still queued on the engine's stream has used before.
  copies_->wait_for_engine();
  const int64_t largest = kStageBytes / element;
  for (int64_t begin = 0; begin < total; begin += largest) {
    const int64_t count = std::min(largest, total - begin);
    Stage& stage = stages_[next_];
    next_ = (next_ + 1) % stages_.size();
    if (stage.copied) {
      copies_->wait(*stage.copied);
    } else {
      stage.memory = device_backend()->pinned(kStageBytes);
    }
    const at::Tensor staged = stage.memory.narrow(0, 0, count * element).view(target.scalar_type());
    if (gathered.defined()) {
      staged.copy_(gathered.narrow(0, begin, count));
    } else {
      read_weight(part_of(source, begin, count), staged);
    }
    copies_->upload(to + begin * element, staged.const_data_ptr(),
                    static_cast<size_t>(count * element));
    stage.copied = copies_->mark();
    copies_->engine_waits(*stage.copied);
  }
}

}  // namespace jitflux
