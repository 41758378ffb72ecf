#include "kernels/cuda/kernels.cuh"

namespace jitflux::kernels {

const DeviceKernels& cuda_kernels() {
  static constexpr DeviceKernels kKernels = {
      cuda::layer_norm_modulate,
      cuda::gated_residual,
      cuda::qk_norm_rope,
      cuda::gelu_tanh,
      cuda::gather_embed,
      cuda::rms_norm,
      cuda::group_norm_scratch_bytes,
      cuda::group_norm,
      cuda::scale_shift_silu,
      cuda::anchor_positions,
      cuda::nearest_anchor_map,
      cuda::gather_rows,
      cuda::lift_step,
      cuda::local_variance,
      cuda::top_k,
      cuda::micro_flow_target,
      cuda::blend_rows,
  };
  return kKernels;
}

}  // namespace jitflux::kernels
