#include "residency/block_streamer.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <utility>

namespace jitflux {

namespace {

constexpr int64_t kAlignment = 256;

int64_t aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

BlockStreamer::BlockStreamer(const FluxWeightReader& reader,
                             std::vector<std::vector<PackedLinear*>> blocks,
                             const std::function<void(const std::string& module)>& read)
    : dtype_(reader.dtype()), copies_(current_session()->copy_stream(/*timed=*/true)) {
  const auto element = static_cast<int64_t>(c10::elementSize(dtype_));
  int64_t largest = 0;
  for (const std::vector<PackedLinear*>& layers : blocks) {
    Block block;
    int64_t bytes = 0;
    for (PackedLinear* layer : layers) {
      const std::vector<int64_t> shape = reader.linear_shape(layer->modules());
      const int64_t weight_offset = bytes;
      const int64_t bias_offset = weight_offset + aligned(shape[0] * shape[1] * element);
      bytes = bias_offset + aligned(shape[0] * element);
      block.layers.push_back({layer, weight_offset, bias_offset, shape[0], shape[1]});
    }
    block.host = device_backend()->pinned(bytes);
    for (const Layer& layer : block.layers) {
      const Linear there = layer_in(block.host, layer);
      reader.read_linear(layer.layer->modules(), there.weight, there.bias);
      for (const std::string& module : layer.layer->modules()) read(module);
    }
    largest = std::max(largest, bytes);
    blocks_.push_back(std::move(block));
  }
  for (Slot& slot : slots_) {
    slot.memory = at::empty({largest}, options_here(at::kByte));
  }
}

Linear BlockStreamer::layer_in(const at::Tensor& memory, const Layer& layer) const {
  const auto element = static_cast<int64_t>(c10::elementSize(dtype_));
  const auto part = [&](int64_t offset, int64_t count) {
    return memory.narrow(0, offset, count * element).view(dtype_);
  };
  return {
      part(layer.weight_offset, layer.outputs * layer.inputs).view({layer.outputs, layer.inputs}),
      part(layer.bias_offset, layer.outputs)};
}

void BlockStreamer::prefetch(uint64_t position) {
  const Block& block = blocks_[position % blocks_.size()];
  Slot& slot = slots_[position % kSlots];
  copies_->upload(slot.memory.mutable_data_ptr(), block.host.const_data_ptr(), block.host.nbytes());
  slot.filled = copies_->mark();
}

void BlockStreamer::begin(size_t block) {
  // A pass was left early: skip to the next first block. What was copied ahead is of no use.
  while (next_ % blocks_.size() != block) ++next_;
  copied_ = std::max(copied_, next_);
  // The slot that is filled next was used by the block before this one, whose work is queued.
  copies_->wait_for_engine();
  for (; copied_ < next_ + kSlots; ++copied_) prefetch(copied_);

  const Slot& slot = slots_[next_ % kSlots];
  copies_->engine_waits(*slot.filled);
  for (const Layer& layer : blocks_[block].layers) {
    layer.layer->bind(layer_in(slot.memory, layer));
  }
  ++next_;
}

}  // namespace jitflux
