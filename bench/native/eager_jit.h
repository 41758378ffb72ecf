// The Just-in-Time sampler as the released FLUX pipeline composes it of eager operators, written by
// us from a description of that pipeline (arXiv 2603.10744 and its code), including what it spends:
// the distances to all anchors are rebuilt at every interpolation, the blur is a full
// two-dimensional convolution, the state lives in the model's type. bench/peer/jit_eager.py is the
// same in Python. Everything is for one image.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

namespace jitflux::bench {

struct EagerGrid {
  int64_t rows;
  int64_t columns;

  int64_t tokens() const { return rows * columns; }
};

// From anchors [1, M, C] to all tokens [1, N, C]: nearest anchor, blurred everywhere but at
// anchors. `anchors` is [M] int64.
at::Tensor eager_interpolate(const at::Tensor& values, const at::Tensor& anchors, EagerGrid grid);

// Local variance of the velocity [1, N, C] over 3x3 windows, averaged over channels: [N].
at::Tensor eager_importance(const at::Tensor& velocity, EagerGrid grid);

// Noise levels, first anchors and noise come from the caller, so that both sides of a comparison
// walk the same path.
struct EagerRun {
  at::Tensor latents;                    // [1, N, C], in the model's type
  at::Tensor noise;                      // the same, for tokens that become active
  at::Tensor anchors;                    // [M] int64, of the first stage
  std::vector<double> sigmas;            // one per step
  std::vector<int64_t> tokens_per_step;  // a step with more than the one before begins a stage
  EagerGrid grid;
};

// The model: velocity at tokens [1, M, C] that stand at the anchors, at noise level sigma.
using EagerVelocity =
    std::function<at::Tensor(const at::Tensor& tokens, const at::Tensor& anchors, double sigma)>;

// Runs the whole sampler; returns the final latents [1, N, C].
at::Tensor eager_sample(const EagerVelocity& velocity_at, const EagerRun& run);

}  // namespace jitflux::bench
