#include "layers/linear.h"

#include <ATen/core/List.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/_addmm_activation.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <exception>
#include <optional>
#include <string_view>
#include <vector>

#include "base/counters.h"
#include "runtime/out_of_memory.h"

namespace jitflux {

namespace {

using LinearPointwise = at::Tensor(const at::Tensor&, const at::Tensor&,
                                   const std::optional<at::Tensor>&, std::string_view,
                                   c10::List<std::optional<at::Scalar>>,
                                   std::optional<std::string_view>);

// The operator that torch.compile uses for linear layers with post-ops on the CPU.
const c10::TypedOperatorHandle<LinearPointwise>& linear_pointwise() {
  static const auto handle = c10::Dispatcher::singleton()
                                 .findSchemaOrThrow("mkldnn::_linear_pointwise", "")
                                 .typed<LinearPointwise>();
  return handle;
}

at::Tensor pointwise(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                     bool gelu) {
  return linear_pointwise().call(
      x, weight, bias.defined() ? std::optional<at::Tensor>(bias) : std::nullopt,
      gelu ? "gelu" : "none", c10::List<std::optional<at::Scalar>>(),
      gelu ? std::optional<std::string_view>("tanh") : std::optional<std::string_view>(""));
}

// Weights are widened in pieces of so many bytes: the largest layer of FLUX.1-dev has 264 MB.
constexpr int64_t kWidenedBytes = int64_t{16} << 20;

// More than oneDNN takes for its first product.
constexpr size_t kTileCodeBytes = size_t{32} << 20;

at::Tensor widened(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                   bool gelu) {
  const at::Tensor rows = x.to(at::kFloat);
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = weight.size(0);
  at::Tensor out = at::empty(shape, x.options());
  const int64_t row_bytes = weight.size(1) * static_cast<int64_t>(sizeof(float));
  const int64_t most = std::max<int64_t>(kWidenedBytes / std::max<int64_t>(row_bytes, 1), 1);
  for (int64_t begin = 0; begin < weight.size(0); begin += most) {
    const int64_t size = std::min(most, weight.size(0) - begin);
    const auto piece = [&](const at::Tensor& t) { return t.narrow(0, begin, size).to(at::kFloat); };
    out.narrow(-1, begin, size)
        .copy_(pointwise(rows, piece(weight), bias.defined() ? piece(bias) : bias, gelu));
  }
  return out;
}

}  // namespace

bool multiplies_bfloat16() {
  // Tried, since oneDNN can also be told to do without (ONEDNN_MAX_CPU_ISA).
  static const bool does = [] {
    // oneDNN makes its code for AMX tiles with the first product that needs them, and jumps to it
    // whether or not there was memory for it.
    expect_memory(kTileCodeBytes);
    const at::Tensor one = at::zeros({16, 16}, at::kBFloat16);
    try {
      pointwise(one, one, {}, false);
      return true;
    } catch (const std::exception& error) {
      if (is_out_of_memory(error)) throw;  // which says nothing of the CPU: tried again next time
      return false;
    }
  }();
  return does;
}

at::Tensor Linear::operator()(const at::Tensor& x, PostOp post) const {
  const bool gelu = post == PostOp::kGeluTanh;
  if (x.is_cuda()) {
    // The epilogue's GELU is the tanh form.
    if (gelu) return at::_addmm_activation(bias, x, weight.t(), 1, 1, /*use_gelu=*/true);
    return at::linear(x, weight, bias.defined() ? std::optional<at::Tensor>(bias) : std::nullopt);
  }
  if (x.scalar_type() == at::kBFloat16 && !multiplies_bfloat16()) {
    count(Counter::kLinearWidened);
    return widened(x, weight, bias, gelu);
  }
  return pointwise(x, weight, bias, gelu);
}

void Linear::into(const at::Tensor& out, const at::Tensor& x, PostOp post) const {
  at::Tensor target = out;
  if (!x.is_cuda()) {
    target.copy_((*this)(x, post));
  } else if (post == PostOp::kGeluTanh) {
    at::_addmm_activation_out(target, bias, x, weight.t(), 1, 1, /*use_gelu=*/true);
  } else {
    at::addmm_out(target, bias, x, weight.t());
  }
}

}  // namespace jitflux
