// Which tiles a large decode is cut into, and how their pictures are joined.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace jitflux {

// Tiles along one side, in latent cells. Tile i covers [starts[i], min(starts[i] + size, length));
// neighbours start `stride` apart.
struct TileAxis {
  int64_t length = 0;
  int64_t size = 0;
  int64_t stride = 0;
  std::vector<int64_t> starts;

  int64_t extent(size_t i) const;

  // One tile.
  static TileAxis whole(int64_t length);
  // Tiles of a given size wherever a multiple of the stride lies inside, as diffusers' tiled_decode
  // does: the last ones may be slivers that their neighbour covers as well.
  static TileAxis fixed(int64_t length, int64_t size, int64_t overlap);
  // As few tiles as a largest size allows, of nearly equal sizes: a sliver would be normalised by
  // statistics of its own.
  static TileAxis balanced(int64_t length, int64_t largest, int64_t overlap);
};

// Joins the pictures of tiles, which arrive row by row, into one. Where tiles overlap, the later
// one fades in linearly over the earlier one, first downwards, then to the right (diffusers'
// blend_v, blend_h).
class TileCanvas {
 public:
  // out: [channels, rows.length * factor, columns.length * factor] float32.
  TileCanvas(at::Tensor out, TileAxis rows, TileAxis columns, int64_t factor);

  // The next tile's picture in row-major order, float32; it is modified.
  void add(at::Tensor tile);

 private:
  at::Tensor out_;
  TileAxis rows_;
  TileAxis columns_;
  int64_t factor_;
  size_t row_ = 0;
  std::vector<at::Tensor> above_;    // blended tiles of the previous row
  std::vector<at::Tensor> current_;  // of this row so far
};

}  // namespace jitflux
