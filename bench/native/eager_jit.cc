#include "eager_jit.h"

#include <ATen/TensorIndexing.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/avg_pool2d.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cdist.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/isin.h>
#include <ATen/ops/linspace.h>
#include <ATen/ops/meshgrid.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/reflection_pad2d.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <optional>

namespace jitflux::bench {

namespace {

using at::indexing::Slice;

constexpr double kBlurStrength = 0.4;
constexpr double kRelaxation = 3;

// Blurs [B, C, rows, columns]; the sparser the anchors, the wider.
at::Tensor gaussian_blur(const at::Tensor& field, double density) {
  const double sigma = std::clamp(kBlurStrength / std::sqrt(density), 1.0, 10.0);
  const auto radius = static_cast<int64_t>(std::ceil(3 * sigma));
  const at::Tensor offsets = at::linspace(-radius, radius, 2 * radius + 1, at::kFloat);
  at::Tensor weights = at::exp(-0.5 * (offsets / sigma).square());
  weights = (weights / weights.sum()).to(field.scalar_type());
  const int64_t channels = field.size(1);
  const at::Tensor kernel = at::outer(weights, weights).expand({channels, 1, -1, -1});
  const at::Tensor padded = at::reflection_pad2d(field, {radius, radius, radius, radius});
  return at::conv2d(padded, kernel, std::nullopt, at::IntArrayRef{1, 1}, at::IntArrayRef{0, 0},
                    at::IntArrayRef{1, 1}, channels);
}

// (row, column) of every token, [N, 2] float32.
at::Tensor coordinates(EagerGrid grid) {
  const auto places =
      at::meshgrid({at::arange(grid.rows, at::kFloat), at::arange(grid.columns, at::kFloat)}, "ij");
  return at::stack({places[0].flatten(), places[1].flatten()}, -1);
}

// [1, N, C] as an image [1, C, rows, columns].
at::Tensor as_image(const at::Tensor& tokens, EagerGrid grid) {
  return tokens.reshape({1, grid.rows, grid.columns, -1}).permute({0, 3, 1, 2});
}

// [M] int64 of tokens out of the N.
at::Tensor at_tokens(const at::Tensor& state, const at::Tensor& tokens) {
  return state.index({Slice(), tokens});
}

// Appends the inactive tokens of highest score [N] until there are `count`.
at::Tensor densify(const at::Tensor& anchors, int64_t count, const at::Tensor& score) {
  at::Tensor inactive = at::ones({score.size(0)}, at::kBool);
  inactive.index_put_({anchors}, false);
  const at::Tensor candidates = at::arange(score.size(0), at::kLong).index({inactive});
  const int64_t missing = count - anchors.size(0);
  if (missing <= 0) return anchors;
  if (missing >= candidates.size(0)) return at::cat({anchors, candidates});
  const at::Tensor best = std::get<1>(at::topk(score.index({candidates}), missing));
  return at::cat({anchors, candidates.index({best})});
}

}  // namespace

at::Tensor eager_interpolate(const at::Tensor& values, const at::Tensor& anchors, EagerGrid grid) {
  const int64_t tokens = grid.tokens();
  const at::Tensor places = coordinates(grid);
  const at::Tensor nearest = at::cdist(places, places.index({anchors})).argmin(-1);
  const at::Tensor field = as_image(at_tokens(values, nearest), grid);
  const double density = static_cast<double>(anchors.size(0)) / static_cast<double>(tokens);
  const at::Tensor blurred = gaussian_blur(field, density);
  at::Tensor known = at::zeros({tokens}, values.scalar_type());
  known.index_put_({anchors}, 1.0);
  known = known.reshape({1, 1, grid.rows, grid.columns});
  const at::Tensor mixed = field * known + blurred * (1.0 - known);
  return mixed.permute({0, 2, 3, 1}).reshape({1, tokens, values.size(2)});
}

at::Tensor eager_importance(const at::Tensor& velocity, EagerGrid grid) {
  const at::Tensor field = as_image(velocity, grid);
  const at::Tensor mean = at::avg_pool2d(field, 3, 1, 1);
  const at::Tensor variance = at::avg_pool2d(field.square(), 3, 1, 1) - mean.square();
  return variance.mean(1).flatten();
}

at::Tensor eager_sample(const EagerVelocity& velocity_at, const EagerRun& run) {
  std::vector<double> levels = run.sigmas;
  levels.push_back(0.0);
  at::Tensor state = run.latents.clone();
  at::Tensor anchors = run.anchors;
  at::Tensor velocity, previous;
  for (size_t step = 0; step < run.tokens_per_step.size(); ++step) {
    const double sigma = levels[step];
    const int64_t count = run.tokens_per_step[step];
    if (count > anchors.size(0)) {
      const at::Tensor grown = densify(anchors, count, eager_importance(velocity, run.grid));
      const at::Tensor added = grown.index({~at::isin(grown, anchors)});
      const at::Tensor clean =
          (previous.to(at::kFloat) - velocity.to(at::kFloat) * levels[step - 1])
              .to(state.scalar_type());
      const at::Tensor lifted = eager_interpolate(at_tokens(clean, anchors), anchors, run.grid);
      const at::Tensor target =
          at_tokens(lifted, added) * (1 - sigma) + at_tokens(run.noise, added) * sigma;
      state.index_put_({Slice(), added}, (1 - 1 / kRelaxation) * at_tokens(state, added) +
                                             (1 / kRelaxation) * target);
      anchors = grown;
    }
    const at::Tensor at_anchors = velocity_at(at_tokens(state, anchors), anchors, sigma);
    if (anchors.size(0) < run.grid.tokens()) {
      velocity = eager_interpolate(at_anchors, anchors, run.grid);
    } else {
      velocity = at::zeros_like(state);
      velocity.index_put_({Slice(), anchors}, at_anchors);
    }
    previous = state.clone();
    state = state + velocity * (levels[step + 1] - sigma);
  }
  return state;
}

}  // namespace jitflux::bench
