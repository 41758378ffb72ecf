#include "base/token_grid.h"

#include <string>

#include "base/error.h"

namespace jitflux {

void check_token_lists(const TokenLists& lists, int64_t tokens) {
  const auto size = static_cast<int64_t>(lists.tokens.size());
  if (lists.count <= 0 || size % lists.count != 0) {
    throw Error(error_code::kInvalidAnchors,
                "Expected at least one anchor token per image but received " +
                    std::to_string(size) + " indices");
  }
  std::vector<int64_t> seen_in(static_cast<size_t>(tokens), -1);
  for (int64_t i = 0; i < size; ++i) {
    const int32_t token = lists.tokens[i];
    if (token < 0 || token >= tokens) {
      throw Error(error_code::kInvalidAnchors,
                  "Anchor " + std::to_string(token) + " at position " + std::to_string(i) +
                      " is out of range: the grid has tokens 0 to " + std::to_string(tokens - 1),
                  {{"position", static_cast<double>(i)}, {"token", static_cast<double>(token)}});
    }
    const int64_t list = i / lists.count;
    if (seen_in[token] == list) {
      throw Error(error_code::kInvalidAnchors,
                  "Anchor " + std::to_string(token) + " at position " + std::to_string(i) +
                      " is duplicated: the anchors of one image must be distinct",
                  {{"position", static_cast<double>(i)}, {"token", static_cast<double>(token)}});
    }
    seen_in[token] = list;
  }
}

}  // namespace jitflux
