// The one host source here that needs no nvcc: designated initialisers want C++20.
#include "kernels/cuda/kernels.h"

namespace jitflux::kernels {

const DeviceKernels& cuda_kernels() {
  static constexpr DeviceKernels kKernels = {
      .layer_norm_modulate = cuda::layer_norm_modulate,
      .gated_residual = cuda::gated_residual,
      .qk_norm_rope = cuda::qk_norm_rope,
      .gelu_tanh = cuda::gelu_tanh,
      .gather_embed = cuda::gather_embed,
      .rms_norm = cuda::rms_norm,
      .group_norm_scratch_bytes = cuda::group_norm_scratch_bytes,
      .group_norm = cuda::group_norm,
      .scale_shift_silu = cuda::scale_shift_silu,
      .anchor_positions = cuda::anchor_positions,
      .nearest_anchor_map = cuda::nearest_anchor_map,
      .gather_rows = cuda::gather_rows,
      .lift_step = cuda::lift_step,
      .local_variance = cuda::local_variance,
      .top_k = cuda::top_k,
      .micro_flow_target = cuda::micro_flow_target,
      .blend_rows = cuda::blend_rows,
  };
  return kKernels;
}

}  // namespace jitflux::kernels
