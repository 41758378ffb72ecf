// The JiT operators on tensors (paper arXiv 2603.10744; JitOperators of src/types.ts). B images,
// N = rows*cols tokens, M anchors, C channels; float32, contiguous, on current_device(). Token
// lists have passed check_token_lists.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "jit/anchors.h"

namespace jitflux::jit {

// A token list where kernels read it: on an accelerator a copy, else the list itself, which must
// outlive the tensor. Undefined if it is empty.
at::Tensor on_current_device(const std::vector<int32_t>& list);

// The augmented lifter of one anchor list: nearest-anchor map and blur kernel, on current_device().
// Built once per stage.
struct Lifter {
  Grid grid;
  std::vector<int32_t> anchors;
  at::Tensor nearest;    // [N] int32, position in anchors
  at::Tensor positions;  // [N] int32, position in anchors, or -1
  at::Tensor weights;    // [2 radius + 1] float32, sums to 1
  int64_t radius = 0;

  Lifter(const int32_t* list, int64_t count, const Grid& on);
};

// Recently used lifters of one device; a run touches one list per image and stage. Used on one
// thread only.
class LifterCache {
 public:
  std::shared_ptr<const Lifter> get(const int32_t* anchors, int64_t count, const Grid& grid);

 private:
  static constexpr size_t kCapacity = 64;
  std::vector<std::shared_ptr<const Lifter>> lifters_;  // most recent last
};

// Rows of latents [B, N, C] at the anchors: [B, M, C].
at::Tensor gather(const at::Tensor& latents, const TokenLists& anchors);

// S_k v + I_k(v): [B, M, C] -> [B, N, C].
at::Tensor lift(const at::Tensor& v, const TokenLists& anchors, const Grid& grid,
                LifterCache& cache);

// Lift, and latents += d_sigma * lifted in the same pass over the grid. `anchors` empty: v is the
// full field and is returned as it is.
at::Tensor step(at::Tensor& latents, const at::Tensor& v, const TokenLists& anchors,
                const Grid& grid, double d_sigma, LifterCache& cache);

// ITA's importance map [B, N] of a velocity field [B, N, C].
at::Tensor importance(const at::Tensor& velocity, const Grid& grid);

// ITA's choice: per image the `count` tokens of highest importance that are no anchors, highest
// first, equal ones by lower token; NaN counts as lowest. [B * count], on the host. `count` is at
// most the number of such tokens.
std::vector<int32_t> select_tokens(const at::Tensor& velocity, const TokenLists& anchors,
                                   int64_t count, const Grid& grid);

// (1 - sigma) * lift(clean at anchors) + sigma * noise at the new tokens: [B, K, C].
at::Tensor micro_flow_target(const at::Tensor& clean, const at::Tensor& noise,
                             const TokenLists& anchors, const TokenLists& new_tokens, double sigma,
                             const Grid& grid, LifterCache& cache);

// Moves the new tokens of latents [B, N, C] a share `weight` of the way to target [B, K, C], in
// place.
void blend(at::Tensor& latents, const at::Tensor& target, const TokenLists& new_tokens,
           double weight);

}  // namespace jitflux::jit
