#include "models/autoencoder/tiling.h"

#include <ATen/ops/arange.h>

#include <algorithm>
#include <utility>

namespace jitflux {

int64_t TileAxis::extent(size_t i) const { return std::min(size, length - starts[i]); }

TileAxis TileAxis::whole(int64_t length) { return {length, length, length, {0}}; }

TileAxis TileAxis::fixed(int64_t length, int64_t size, int64_t overlap) {
  TileAxis axis{length, size, size - overlap, {}};
  for (int64_t start = 0; start < length; start += axis.stride) axis.starts.push_back(start);
  return axis;
}

TileAxis TileAxis::balanced(int64_t length, int64_t largest, int64_t overlap) {
  if (length <= largest) return whole(length);
  const auto divide_up = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
  const int64_t count = divide_up(length - overlap, largest - overlap);
  const int64_t size = divide_up(length + (count - 1) * overlap, count);
  TileAxis axis{length, size, size - overlap, {}};
  for (int64_t i = 0; i < count; ++i) axis.starts.push_back(i * axis.stride);
  return axis;
}

namespace {

// The first `extent` entries of `tile` along `dim` fade in over the last ones of `before`.
void blend(const at::Tensor& before, const at::Tensor& tile, int64_t dim, int64_t extent) {
  extent = std::min({extent, before.size(dim), tile.size(dim)});
  if (extent <= 0) return;
  std::vector<int64_t> shape(static_cast<size_t>(tile.dim()), 1);
  shape[dim] = extent;
  const at::Tensor weight =
      at::arange(extent, tile.options()).div(static_cast<double>(extent)).view(shape);
  at::Tensor head = tile.narrow(dim, 0, extent);
  const at::Tensor tail = before.narrow(dim, before.size(dim) - extent, extent);
  head.copy_(tail * (1.0 - weight) + head * weight);
}

}  // namespace

TileCanvas::TileCanvas(at::Tensor out, TileAxis rows, TileAxis columns, int64_t factor)
    : out_(std::move(out)), rows_(std::move(rows)), columns_(std::move(columns)), factor_(factor) {}

void TileCanvas::add(at::Tensor tile) {
  const size_t column = current_.size();
  if (row_ > 0) blend(above_[column], tile, 1, (rows_.size - rows_.stride) * factor_);
  if (column > 0) {
    blend(current_[column - 1], tile, 2, (columns_.size - columns_.stride) * factor_);
  }
  // A tile fills the picture up to where the next one starts; the last one all that is left.
  const auto fills = [this](const TileAxis& axis, size_t i) {
    return (i + 1 < axis.starts.size() ? std::min(axis.stride, axis.extent(i)) : axis.extent(i)) *
           factor_;
  };
  const int64_t height = fills(rows_, row_);
  const int64_t width = fills(columns_, column);
  out_.narrow(1, rows_.starts[row_] * factor_, height)
      .narrow(2, columns_.starts[column] * factor_, width)
      .copy_(tile.narrow(1, 0, height).narrow(2, 0, width));
  current_.push_back(std::move(tile));
  if (current_.size() == columns_.starts.size()) {
    above_ = std::move(current_);
    current_.clear();
    ++row_;
  }
}

}  // namespace jitflux
