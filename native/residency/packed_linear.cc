#include "residency/packed_linear.h"

#include <ATen/core/dispatch/Dispatcher.h>

#include <optional>
#include <utility>

#include "base/counters.h"
#include "runtime/memory_arena.h"

namespace jitflux {

namespace {

using ReorderWeight = at::Tensor(const at::Tensor&, std::optional<int64_t>);

at::Tensor reorder(const at::Tensor& weight) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("mkldnn::_reorder_linear_weight", "")
                             .typed<ReorderWeight>();
  return op.call(weight, kExpectedRows);
}

}  // namespace

void PackedLinear::prepare() {
  const bool reorders =
      form_ == WeightForm::kPacked && (reader_->dtype() != at::kBFloat16 || multiplies_bfloat16());
  // What is copied anyway is read, so that a file that was truncated is an error.
  const bool copies = reorders || form_ == WeightForm::kInt8;
  // The copy is gone when the layer is prepared, as are the bytes that it is quantised to before
  // they are packed: their memory is the arena's of whoever prepares, for the next layer. What
  // stays is not.
  Linear linear;
  if (copies) linear = reader_->linear(modules_, /*may_map=*/false);
  if (form_ == WeightForm::kInt8) quantized_ = QuantizedLinear(linear.weight);
  const MemoryArena::Scope scope(nullptr);
  if (!copies) linear = reader_->linear(modules_);
  if (reorders) linear.weight = reorder(linear.weight);
  if (form_ == WeightForm::kInt8) linear = {.weight = {}, .bias = linear.bias.to(at::kFloat)};
  linear_ = std::move(linear);
}

LayerOutput PackedLinear::operator()(const LayerInput& x, PostOp post) {
  prepare_if_needed();
  if (form_ == WeightForm::kInt8) {
    return {quantized_(x.values, reader_->dtype()), x.row_scale, linear_.bias};
  }
  return {used()(x.values, post), {}, {}};
}

LayerOutput PackedLinear::into(const at::Tensor& y, const LayerInput& x, PostOp post) {
  prepare_if_needed();
  used().into(y, x.values, post);
  return {y, {}, {}};
}

const Linear& PackedLinear::used() {
  switch (form_) {
    case WeightForm::kPacked:
      count(Counter::kLinearPacked);
      break;
    case WeightForm::kResident:
      count(Counter::kLinearDevice);
      break;
    case WeightForm::kStreamed:
      count(Counter::kLinearStreamed);
      break;
    default:
      count(Counter::kLinearPlain);
  }
  return linear_;
}

}  // namespace jitflux
