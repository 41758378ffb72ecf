#include "jit/token_choice.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "jit/device_lists.h"
#include "jit/importance.h"
#include "jit/nearest_map.h"
#include "runtime/device.h"

namespace jitflux::jit {

std::vector<int32_t> select_tokens(const at::Tensor& velocity, const TokenLists& anchors,
                                   int64_t count, const Grid& grid) {
  const int64_t images = velocity.size(0);
  const int64_t tokens = grid.tokens();
  std::vector<int32_t> chosen(static_cast<size_t>(images * count));
  const at::Tensor map = importance(velocity, grid);
  if (const auto* device = current_kernels()) {
    const at::TensorOptions options = options_here(at::kInt);
    const DeviceLists lists(anchors);
    const at::Tensor positions = at::empty({tokens}, options);
    const at::Tensor found = at::empty({images, count}, options);
    for (int64_t b = 0; b < images; ++b) {
      device->anchor_positions(lists.of(b), anchors.count, positions.mutable_data_ptr<int32_t>(),
                               tokens, current_stream());
      device->top_k(map.const_data_ptr<float>() + b * tokens, positions.const_data_ptr<int32_t>(),
                    tokens, count, found.mutable_data_ptr<int32_t>() + b * count, current_stream());
    }
    const at::Tensor host = found.cpu();
    std::copy_n(host.const_data_ptr<int32_t>(), host.numel(), chosen.data());
    return chosen;
  }
  for (int64_t b = 0; b < images; ++b) {
    const float* score = map.const_data_ptr<float>() + b * tokens;
    const auto value = [&](int32_t token) {
      return std::isnan(score[token]) ? -std::numeric_limits<float>::infinity() : score[token];
    };
    const std::vector<int32_t> position = anchor_positions(anchors.of(b), anchors.count, tokens);
    std::vector<int32_t> candidates;
    for (int32_t t = 0; t < tokens; ++t) {
      if (position[t] < 0) candidates.push_back(t);
    }
    std::partial_sort(candidates.begin(), candidates.begin() + count, candidates.end(),
                      [&](int32_t a, int32_t c) {
                        const float x = value(a);
                        const float y = value(c);
                        return x != y ? x > y : a < c;
                      });
    std::copy_n(candidates.begin(), count, chosen.begin() + b * count);
  }
  return chosen;
}

}  // namespace jitflux::jit
