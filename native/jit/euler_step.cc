#include "jit/euler_step.h"

#include "kernels/kernels.h"
#include "runtime/device.h"
#include "runtime/parallel.h"

namespace jitflux::jit {

at::Tensor euler_step(at::Tensor& latents, const at::Tensor& v, const TokenLists& anchors,
                      const Grid& grid, double d_sigma, LifterCache& cache) {
  if (!anchors.empty()) {
    return lift_and_step(latents, v, anchors, grid, d_sigma, cache);
  }
  if (on_accelerator()) {
    latents.add_(v, d_sigma);
    return v;
  }
  const auto& kernels = kernels::table().jit;
  const float* velocity = v.const_data_ptr<float>();
  float* y = latents.mutable_data_ptr<float>();
  parallel_rows(v.numel(), 1, [&](int64_t begin, int64_t end) {
    kernels.axpy(static_cast<float>(d_sigma), velocity + begin, y + begin, end - begin);
  });
  return v;
}

at::Tensor predict_clean(const at::Tensor& latents, const at::Tensor& velocity, double sigma) {
  return latents.sub(velocity, sigma);
}

}  // namespace jitflux::jit
