// The augmented lifter S_k + I_k of the paper (arXiv 2603.10744): a velocity known at the anchors
// becomes one of the whole grid, exact at the anchors and interpolated elsewhere by a Gaussian blur
// of the nearest-anchor field. B images, N = rows * cols tokens, M anchors, C channels; float32,
// contiguous, on current_device(). Token lists have passed check_token_lists.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "base/token_grid.h"
#include "kernels/device_kernels.h"

namespace jitflux::jit {

// What the nearest-anchor field is blurred with: kGaussian is the paper's lifter, kNone leaves the
// field as it is (an ablation).
enum class Blur { kGaussian, kNone };

// The augmented lifter of one anchor list: nearest-anchor map and blur kernel, on current_device().
// Built once per stage.
struct Lifter {
  Grid grid;
  std::vector<int32_t> anchors;
  at::Tensor nearest;    // [N] int32, position in anchors
  at::Tensor positions;  // [N] int32, position in anchors, or -1
  at::Tensor weights;    // [2 radius + 1] float32, sums to 1
  int64_t radius = 0;
  Blur blur;

  Lifter(const int32_t* list, int64_t count, const Grid& on, Blur with = Blur::kGaussian);

  // As an accelerator's kernels take it, with v [M, channels] and blur_scratch.
  kernels::device::Lift on_device(const float* v, int64_t channels,
                                  const at::Tensor& blurred) const;
};

// Recently used lifters of one device; a run touches one list per image and stage. Used on one
// thread only.
class LifterCache {
 public:
  std::shared_ptr<const Lifter> get(const int32_t* anchors, int64_t count, const Grid& grid,
                                    Blur blur = Blur::kGaussian);

 private:
  static constexpr size_t kCapacity = 64;
  std::vector<std::shared_ptr<const Lifter>> lifters_;  // most recent last
};

// S_k v + I_k(v): [B, M, C] -> [B, N, C].
at::Tensor lift(const at::Tensor& v, const TokenLists& anchors, const Grid& grid,
                LifterCache& cache, Blur blur = Blur::kGaussian);

// The same, and latents [B, N, C] += d_sigma * lifted in the same pass over the grid. Returns the
// lifted field [B, N, C].
at::Tensor lift_and_step(at::Tensor& latents, const at::Tensor& v, const TokenLists& anchors,
                         const Grid& grid, double d_sigma, LifterCache& cache);

// Gets, of image `image`, the lifted velocity [C] of the token at `position` in the image's list;
// on several threads.
using LiftVisitor = std::function<void(int64_t image, int64_t position, const float* lifted)>;

// lift() at `tokens`, K per image, only, and with the same bits. They are visited in the order of
// the grid, whatever theirs: what else is read of them then lies together. On the CPU; an
// accelerator's micro_flow_target does it by itself.
void lift_at(const at::Tensor& v, const TokenLists& anchors, const TokenLists& tokens,
             const Grid& grid, LifterCache& cache, const LiftVisitor& visit);

// Where an accelerator's lifter keeps the field that is blurred along one direction: [N, C].
at::Tensor blur_scratch(const Grid& grid, int64_t channels);

}  // namespace jitflux::jit
