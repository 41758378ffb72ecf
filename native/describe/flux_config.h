// Architecture of a FLUX transformer. Inferred from tensor shapes by describe/flux_parameters.
#pragma once

#include <array>
#include <cstdint>

namespace jitflux {

struct FluxConfig {
  int64_t double_blocks = 0;
  int64_t single_blocks = 0;
  int64_t heads = 0;
  int64_t head_dim = 0;
  int64_t in_channels = 0;
  int64_t out_channels = 0;
  int64_t text_dim = 0;    // width of the T5 tokens
  int64_t pooled_dim = 0;  // width of the CLIP vector
  int64_t mlp_ratio = 4;   // MLP width over hidden width
  bool guidance = false;   // has a guidance embedder (dev: yes, schnell: no)
  std::array<int64_t, 3> rope_axes = {0, 0, 0};

  int64_t hidden() const { return heads * head_dim; }
  int64_t mlp() const { return mlp_ratio * hidden(); }
};

}  // namespace jitflux
