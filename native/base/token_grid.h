// Image tokens as the JiT operators and the transformer name them: a grid, and lists of its tokens.
// Token i lies at row i / cols, column i % cols.
#pragma once

#include <cstdint>
#include <vector>

namespace jitflux {

// Most rows, and most columns, of a grid.
inline constexpr int64_t kMaxGridSide = 4096;

struct Grid {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t tokens() const { return rows * cols; }
};

// Token lists of a batch: one list for all images, or one of equal length per image.
struct TokenLists {
  std::vector<int32_t> tokens;  // [count], or [B * count] if per image
  int64_t count = 0;            // tokens per image

  bool empty() const { return tokens.empty(); }
  bool shared() const { return static_cast<int64_t>(tokens.size()) == count; }
  const int32_t* of(int64_t image) const { return tokens.data() + (shared() ? 0 : image * count); }
};

// Throws kInvalidAnchors unless every list is non-empty and holds distinct tokens in [0, tokens).
void check_token_lists(const TokenLists& lists, int64_t tokens);

}  // namespace jitflux
