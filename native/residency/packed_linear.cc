#include "residency/packed_linear.h"

#include <ATen/core/List.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <optional>
#include <string_view>
#include <utility>

#include "base/counters.h"
#include "layers/activation.h"
#include "runtime/memory_arena.h"
#include "runtime/parallel.h"

namespace jitflux {

namespace {

// oneDNN's blocking depends on the number of rows it is told to expect. A fixed one: what a layer
// computes must not depend on which request came first.
constexpr int64_t kExpectedRows = 2048;

using ReorderWeight = at::Tensor(const at::Tensor&, std::optional<int64_t>);
using PrepackInt8 = at::Tensor(at::Tensor, std::optional<c10::List<int64_t>>);
using LinearInt8 = at::Tensor(at::Tensor, double, int64_t, at::Tensor, at::Tensor, at::Tensor,
                              std::optional<at::Tensor>, double, int64_t,
                              std::optional<c10::ScalarType>, std::string_view,
                              c10::List<std::optional<at::Scalar>>, std::string_view);

template <typename Signature>
c10::TypedOperatorHandle<Signature> find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

at::Tensor reorder(const at::Tensor& weight) {
  static const auto op = find<ReorderWeight>("mkldnn::_reorder_linear_weight");
  return op.call(weight, kExpectedRows);
}

at::Tensor prepack_int8(const at::Tensor& weight) {
  static const auto op = find<PrepackInt8>("onednn::qlinear_prepack");
  return op.call(weight, c10::List<int64_t>({kExpectedRows, weight.size(1)}));
}

// Largest weight. Without VNNI oneDNN adds pairs of products in 16 bits with saturation: two times
// 255 * 63 fit, two times 255 * 127 would not.
float weight_levels() {
  const bool exact =
      __builtin_cpu_supports("avx512vnni") != 0 || __builtin_cpu_supports("avxvnni") != 0;
  return exact ? 127.0f : 63.0f;
}

// (x - 128) W^T * weight_scale, of type `out`: the products are exact, the result is rounded once.
at::Tensor linear_int8(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& scale,
                       const at::Tensor& zero_point, at::ScalarType out) {
  static const auto op = find<LinearInt8>("onednn::qlinear_pointwise");
  return op.call(x, /*act_scale=*/1.0, /*act_zero_point=*/kByteOffset, weight, scale, zero_point,
                 std::nullopt, /*output_scale=*/1.0, /*output_zero_point=*/0, out, "none",
                 c10::List<std::optional<at::Scalar>>(), "");
}

// Rows as signed bytes and their scales.
template <typename T>
std::pair<at::Tensor, at::Tensor> quantized_rows(const at::Tensor& weight) {
  const int64_t width = weight.size(1);
  at::Tensor bytes = at::empty(weight.sizes(), at::kChar);
  at::Tensor scale = at::empty({weight.size(0)}, at::kFloat);
  const auto* src = const_data<T>(weight);
  auto* dst = reinterpret_cast<uint8_t*>(bytes.mutable_data_ptr<int8_t>());
  auto* scales = scale.mutable_data_ptr<float>();
  parallel_rows(weight.size(0), width, [&](int64_t begin, int64_t end) {
    row_kernels<T>().quantize_rows(src + begin * width, width, dst + begin * width, scales + begin,
                                   end - begin, width, 0, weight_levels());
  });
  return {std::move(bytes), std::move(scale)};
}

}  // namespace

void PackedLinear::prepare() {
  // Neither the prepared weights nor what they are made from belong to the passes' memory.
  const MemoryArena::Scope scope(nullptr);
  const bool reorders =
      form_ == WeightForm::kPacked && (reader_->dtype() != at::kBFloat16 || multiplies_bfloat16());
  // What is copied anyway is read, so that a file that was truncated is an error.
  const bool copies = reorders || form_ == WeightForm::kInt8;
  Linear linear = reader_->linear(modules_, /*may_map=*/!copies);
  if (reorders) {
    linear.weight = reorder(linear.weight);
  } else if (form_ == WeightForm::kInt8) {
    multiplies_bfloat16();  // products of bytes use the same tiles
    auto [bytes, scale] = linear.weight.scalar_type() == at::kBFloat16
                              ? quantized_rows<at::BFloat16>(linear.weight)
                              : quantized_rows<float>(linear.weight);
    weight_zero_point_ = at::zeros({bytes.size(0)}, at::kInt);
    weight_scale_ = std::move(scale);
    linear.weight = prepack_int8(bytes);
    linear.bias = linear.bias.to(at::kFloat);
  }
  linear_ = std::move(linear);
}

LayerOutput PackedLinear::operator()(const LayerInput& x, PostOp post) {
  prepare_if_needed();
  if (form_ == WeightForm::kInt8) {
    count(Counter::kLinearInt8);
    const at::ScalarType type = reader_->dtype();
    const bool rounds = type == at::kBFloat16 && !multiplies_bfloat16();
    at::Tensor y = linear_int8(x.values, linear_.weight, weight_scale_, weight_zero_point_,
                               rounds ? at::kFloat : type);
    return {rounds ? y.to(type) : std::move(y), x.row_scale, linear_.bias};
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
