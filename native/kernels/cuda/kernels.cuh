// The entries of DeviceKernels, for table.cu. Each source defines those of its part.
#pragma once

#include <cstdint>

#include "kernels/device_kernels.h"

namespace jitflux::kernels::cuda {

// row_norms.cu
void layer_norm_modulate(Element type, const void* x, const float* shift, const float* scale,
                         void* out, int64_t rows, int64_t d, float eps, DeviceStream stream);
void gated_residual(Element type, void* x, const void* y, const float* gate, const float* shift,
                    const float* scale, void* out, int64_t rows, int64_t d, float eps,
                    DeviceStream stream);
void rms_norm(Element type, const float* x, const float* weight, void* out, int64_t rows, int64_t d,
              float eps, DeviceStream stream);

// qk_norm_rope.cu
void qk_norm_rope(Element type, const void* qkv, int64_t qkv_stride, const float* q_weight,
                  const float* k_weight, const float* cos, const float* sin,
                  const int32_t* positions, void* q, void* k, void* v, int64_t out_stride,
                  int64_t rows, int64_t heads, int64_t head_dim, float eps, DeviceStream stream);

// gelu.cu
void gelu_tanh(Element type, const void* src, int64_t src_stride, const void* prefix,
               int64_t prefix_stride, int64_t prefix_columns, void* dst, int64_t dst_stride,
               int64_t rows, int64_t d, DeviceStream stream);

// gather_embed.cu
void gather_embed(Element type, const float* latents, const int32_t* positions, const float* weight,
                  const float* bias, void* out, int64_t rows, int64_t channels, int64_t d,
                  DeviceStream stream);

// group_norm.cu
int64_t group_norm_scratch_bytes(int64_t rows, int64_t columns, int64_t channels);
void group_norm(Element type, const void* x, int64_t row_stride, int64_t rows, int64_t columns,
                int64_t channels, int64_t groups, const float* weight, const float* bias, float eps,
                float* scale, float* shift, void* scratch, DeviceStream stream);
void scale_shift_silu(Element type, const void* x, int64_t x_row_stride, const float* scale,
                      const float* shift, void* out, int64_t out_row_stride, int64_t rows,
                      int64_t columns, int64_t channels, DeviceStream stream);

// lifter.cu
void gather_rows(const float* src, const int32_t* tokens, float* out, int64_t count,
                 int64_t channels, DeviceStream stream);
void lift_step(const float* v, const int32_t* nearest, const int32_t* positions,
               const float* weights, int64_t radius, float* blurred, float* full, float* latents,
               float d_sigma, int64_t rows, int64_t cols, int64_t channels, DeviceStream stream);

// nearest_map.cu
void anchor_positions(const int32_t* anchors, int64_t count, int32_t* positions, int64_t tokens,
                      DeviceStream stream);
void nearest_anchor_map(const int32_t* positions, int32_t* nearest, void* scratch, int64_t rows,
                        int64_t cols, DeviceStream stream);

// importance.cu
void local_variance(const float* v, float* out, int64_t rows, int64_t cols, int64_t channels,
                    DeviceStream stream);

// token_choice.cu
void top_k(const float* scores, const int32_t* positions, int64_t tokens, int64_t count,
           int32_t* out, DeviceStream stream);

// micro_flow.cu
void micro_flow_target(const float* v, const int32_t* nearest, const int32_t* positions,
                       const float* weights, int64_t radius, float* blurred, const float* noise,
                       const int32_t* new_tokens, int64_t count, float sigma, float* out,
                       int64_t rows, int64_t cols, int64_t channels, DeviceStream stream);
void blend_rows(float* latents, const float* target, const int32_t* tokens, float weight,
                int64_t count, int64_t channels, DeviceStream stream);

}  // namespace jitflux::kernels::cuda
