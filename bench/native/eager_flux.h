// The FLUX transformer as an eager framework runs it: one ATen operator after the other, each with
// a result of its own. Written against LibTorch alone with the mathematics, parameter names and
// order of operations of diffusers' FluxTransformer2DModel, so that the time of one stands for the
// time of the other. Nothing is tuned: separate q, k and v projections, norms and rotations as
// diffusers composes them, at::scaled_dot_product_attention, modulation recomputed in every step.
// bench/peer/flux_eager.py is the same in Python.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace jitflux::bench {

// Architecture, by the names of FluxConfig in src/types.ts.
struct EagerFluxShape {
  int64_t double_blocks = 0;
  int64_t single_blocks = 0;
  int64_t head_dim = 0;
  bool guidance = false;
  std::array<int64_t, 3> rope_axes{};
};

// Cosines and sines, [S, head_dim] float32 each, every value twice.
struct EagerRope {
  at::Tensor cos;
  at::Tensor sin;
};

// Rotates neighbouring pairs of x [..., head_dim] in float32, whatever x is, as diffusers'
// apply_rotary_emb does; cos and sin broadcast against x.
at::Tensor eager_rotate(const at::Tensor& x, const EagerRope& rope);

// LayerNorm without parameters, then x * (1 + scale) + shift.
at::Tensor eager_modulated(const at::Tensor& x, const at::Tensor& shift, const at::Tensor& scale);

class EagerFlux {
 public:
  // Reads a weight file with diffusers' names; parameters are held in `dtype`. Throws if a
  // parameter is missing or left over.
  EagerFlux(const std::string& path, const EagerFluxShape& shape, at::ScalarType dtype);
  ~EagerFlux();

  struct Inputs {
    at::Tensor tokens;     // [B, M, inChannels], in the model's type
    at::Tensor positions;  // [M, 3] float32: (0, row, column)
    at::Tensor prompt;     // [B, T, textDim], in the model's type
    at::Tensor pooled;     // [B, pooledDim], in the model's type
    at::Tensor sigma;      // [B], in the model's type
    at::Tensor guidance;   // [B] float32
  };

  // Velocity at the tokens, [B, M, outChannels] in the model's type.
  at::Tensor forward(const Inputs& inputs) const;

  at::ScalarType dtype() const;

 private:
  struct Modules;
  std::unique_ptr<const Modules> modules_;
};

// (0, row, column) of every token of a grid, [rows * columns, 3] float32.
at::Tensor grid_positions(int64_t rows, int64_t columns);

}  // namespace jitflux::bench
