// The entries of DeviceKernels, for table.cc. Each source defines those of its part.
#pragma once

#include <cstdint>

#include "kernels/device_kernels.h"

namespace jitflux::kernels::cuda {

// row_norms.cu
void layer_norm_modulate(Element type, const device::LayerNormModulate& arguments,
                         DeviceStream stream);
void gated_residual(Element type, const device::GatedResidual& arguments, DeviceStream stream);
void rms_norm(Element type, const float* x, const float* weight, void* out, int64_t rows, int64_t d,
              float eps, DeviceStream stream);

// qk_norm_rope.cu
void qk_norm_rope(Element type, const device::QkNormRope& arguments, DeviceStream stream);

// gelu.cu
void gelu_tanh(Element type, const device::GeluTanh& arguments, DeviceStream stream);

// gather_embed.cu
void gather_embed(Element type, const device::GatherEmbed& arguments, DeviceStream stream);

// group_norm.cu
int64_t group_norm_scratch_bytes(int64_t rows, int64_t columns, int64_t channels);
void group_norm(Element type, const device::GroupNorm& arguments, DeviceStream stream);
void scale_shift_silu(Element type, const device::ScaleShiftSilu& arguments, DeviceStream stream);

// nearest_map.cu
void anchor_positions(const int32_t* anchors, int64_t count, int32_t* positions, int64_t tokens,
                      DeviceStream stream);
void nearest_anchor_map(const int32_t* positions, int32_t* nearest, void* scratch, int64_t rows,
                        int64_t cols, DeviceStream stream);

// lifter.cu
void gather_rows(const float* src, const int32_t* tokens, float* out, int64_t count,
                 int64_t channels, DeviceStream stream);
void lift_step(const device::Lift& arguments, float* full, float* latents, float d_sigma,
               DeviceStream stream);

// importance.cu
void local_variance(const float* v, float* out, int64_t rows, int64_t cols, int64_t channels,
                    DeviceStream stream);

// token_choice.cu
void top_k(const float* scores, const int32_t* positions, int64_t tokens, int64_t count,
           int32_t* out, DeviceStream stream);

// micro_flow.cu
void micro_flow_target(const device::Lift& arguments, const float* noise, const int32_t* new_tokens,
                       int64_t count, float sigma, float* out, DeviceStream stream);
void blend_rows(float* latents, const float* target, const int32_t* tokens, float weight,
                int64_t count, int64_t channels, DeviceStream stream);

}  // namespace jitflux::kernels::cuda
