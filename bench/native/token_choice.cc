#include "token_choice.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

namespace jitflux::bench {

TokenChoice choose_tokens(const Grid& grid, int64_t anchors, int64_t added, uint32_t variant) {
  std::vector<int32_t> tokens(static_cast<size_t>(grid.tokens()));
  std::iota(tokens.begin(), tokens.end(), 0);
  std::shuffle(tokens.begin(), tokens.end(), std::mt19937(variant));
  const auto list = [&](int64_t begin, int64_t count) {
    TokenLists lists;
    lists.tokens.assign(tokens.begin() + begin, tokens.begin() + begin + count);
    lists.count = count;
    std::sort(lists.tokens.begin(), lists.tokens.end());
    return lists;
  };
  return {list(0, anchors), list(anchors, added)};
}

}  // namespace jitflux::bench
