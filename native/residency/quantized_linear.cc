#include "residency/quantized_linear.h"

#include <ATen/core/List.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/copy.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <optional>
#include <string_view>
#include <utility>

#include "base/counters.h"
#include "layers/activation.h"
#include "layers/layer_rows.h"
#include "layers/linear.h"
#include "runtime/memory_arena.h"
#include "runtime/parallel.h"

namespace jitflux {

namespace {

using Prepack = at::Tensor(at::Tensor, std::optional<c10::List<int64_t>>);
using Multiply = at::Tensor(at::Tensor, double, int64_t, at::Tensor, at::Tensor, at::Tensor,
                            std::optional<at::Tensor>, double, int64_t,
                            std::optional<c10::ScalarType>, std::string_view,
                            c10::List<std::optional<at::Scalar>>, std::string_view);

template <typename Signature>
c10::TypedOperatorHandle<Signature> find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

at::Tensor prepack(const at::Tensor& weight) {
  static const auto op = find<Prepack>("onednn::qlinear_prepack");
  return op.call(weight, c10::List<int64_t>({kExpectedRows, weight.size(1)}));
}

// Largest weight. Without VNNI oneDNN adds pairs of products in 16 bits with saturation: two times
// 255 * 63 fit, two times 255 * 127 would not.
float weight_levels() {
  const bool exact =
      __builtin_cpu_supports("avx512vnni") != 0 || __builtin_cpu_supports("avxvnni") != 0;
  return exact ? 127.0f : 63.0f;
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

QuantizedLinear::QuantizedLinear(const at::Tensor& weight) {
  multiplies_bfloat16();  // products of bytes use the same tiles
  auto [bytes, scale] = weight.scalar_type() == at::kBFloat16 ? quantized_rows<at::BFloat16>(weight)
                                                              : quantized_rows<float>(weight);
  // The bytes are in memory of the arena in use, if there is one; what stays is not.
  const MemoryArena::Scope scope(nullptr);
  scale_ = at::empty_like(scale).copy_(scale);
  zero_point_ = at::zeros({bytes.size(0)}, at::kInt);
  weight_ = prepack(bytes);
}

at::Tensor QuantizedLinear::operator()(const at::Tensor& x, at::ScalarType dtype) const {
  static const auto op = find<Multiply>("onednn::qlinear_pointwise");
  count(Counter::kLinearInt8);
  const bool rounds = dtype == at::kBFloat16 && !multiplies_bfloat16();
  const at::Tensor y =
      op.call(x, /*act_scale=*/1.0, /*act_zero_point=*/kByteOffset, weight_, scale_, zero_point_,
              std::nullopt, /*output_scale=*/1.0, /*output_zero_point=*/0,
              rounds ? at::kFloat : dtype, "none", c10::List<std::optional<at::Scalar>>(), "");
  return rounds ? y.to(dtype) : y;
}

}  // namespace jitflux
