#include "flux/linear.h"

#include <ATen/core/List.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/_addmm_activation.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/linear.h>

#include <optional>
#include <string_view>

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

}  // namespace

at::Tensor Linear::operator()(const at::Tensor& x, PostOp post) const {
  const bool gelu = post == PostOp::kGeluTanh;
  if (x.is_cuda()) {
    // The epilogue's GELU is the tanh form.
    if (gelu) return at::_addmm_activation(bias, x, weight.t(), 1, 1, /*use_gelu=*/true);
    return at::linear(x, weight, bias.defined() ? std::optional<at::Tensor>(bias) : std::nullopt);
  }
  return linear_pointwise().call(
      x, weight, bias.defined() ? std::optional<at::Tensor>(bias) : std::nullopt,
      gelu ? "gelu" : "none", c10::List<std::optional<at::Scalar>>(),
      gelu ? std::optional<std::string_view>("tanh") : std::optional<std::string_view>(""));
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
