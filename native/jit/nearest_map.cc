#include "jit/nearest_map.h"

#include <algorithm>

namespace jitflux::jit {

namespace {

// An anchor of one column, seen from one row.
struct ColumnHit {
  int32_t distance;  // rows to the nearest anchor of the column, or -1 if the column has none
  int32_t position;  // earliest list position among the (at most two) anchors at that distance
};

int64_t squared(const ColumnHit& hit) { return int64_t{hit.distance} * hit.distance; }

// ColumnHit of every token, by one sweep down and one up each column.
std::vector<ColumnHit> column_hits(const int32_t* anchors, int64_t count, const Grid& grid) {
  std::vector<ColumnHit> hits(static_cast<size_t>(grid.tokens()), ColumnHit{-1, -1});
  for (int64_t i = 0; i < count; ++i) hits[anchors[i]] = {0, static_cast<int32_t>(i)};
  for (int64_t r = 1; r < grid.rows; ++r) {
    for (int64_t c = 0; c < grid.cols; ++c) {
      const ColumnHit above = hits[(r - 1) * grid.cols + c];
      ColumnHit& here = hits[r * grid.cols + c];
      if (here.distance != 0 && above.distance >= 0) here = {above.distance + 1, above.position};
    }
  }
  // The downward sweep left each token's nearest anchor above it; going up, merge the one below.
  std::vector<ColumnHit> below(static_cast<size_t>(grid.cols), ColumnHit{-1, -1});
  for (int64_t r = grid.rows - 1; r >= 0; --r) {
    for (int64_t c = 0; c < grid.cols; ++c) {
      ColumnHit& here = hits[r * grid.cols + c];
      ColumnHit& under = below[c];
      if (here.distance == 0) {
        under = here;
        continue;
      }
      if (under.distance >= 0) {
        ++under.distance;
        if (here.distance < 0 || under.distance < here.distance) {
          here = under;
        } else if (under.distance == here.distance) {
          here.position = std::min(here.position, under.position);
        }
      }
    }
  }
  return hits;
}

// Where the parabolas (x - a)^2 + fa and (x - b)^2 + fb cross, a < b, as an exact fraction.
struct Crossing {
  int64_t numerator;
  int64_t denominator;  // > 0
};

Crossing crossing(int64_t a, int64_t fa, int64_t b, int64_t fb) {
  return {(b * b + fb) - (a * a + fa), 2 * (b - a)};
}

bool less(const Crossing& x, const Crossing& y) {
  return x.numerator * y.denominator < y.numerator * x.denominator;
}

}  // namespace

std::vector<int32_t> nearest_anchor_map(const int32_t* anchors, int64_t count, const Grid& grid) {
  const std::vector<ColumnHit> hits = column_hits(anchors, count, grid);
  std::vector<int32_t> nearest(static_cast<size_t>(grid.tokens()));
  // Per row, the lower envelope of the parabolas (x - c)^2 + distance(c)^2 (Felzenszwalb and
  // Huttenlocher). Parabolas that touch the envelope in a single point stay on it: that point may
  // be a token with several equally near anchors. Each parabola then covers a closed interval, so
  // the intervals overlap in at most their end points and the scan stays linear.
  std::vector<int64_t> column(static_cast<size_t>(grid.cols));
  std::vector<Crossing> start(static_cast<size_t>(grid.cols));  // where parabola k takes over
  for (int64_t r = 0; r < grid.rows; ++r) {
    const ColumnHit* row = hits.data() + r * grid.cols;
    int64_t size = 0;
    for (int64_t c = 0; c < grid.cols; ++c) {
      if (row[c].distance < 0) continue;
      const int64_t height = squared(row[c]);
      Crossing at{0, 1};
      while (size > 0) {
        const int64_t top = column[size - 1];
        at = crossing(top, squared(row[top]), c, height);
        if (size > 1 && less(at, start[size - 1])) {
          --size;
        } else {
          break;
        }
      }
      column[size] = c;
      start[size] = at;
      ++size;
    }
    int64_t k = 0;
    for (int64_t c = 0; c < grid.cols; ++c) {
      const Crossing here{c, 1};
      // The first parabola whose interval contains c ...
      while (k + 1 < size && less(start[k + 1], here)) ++k;
      int32_t best = row[column[k]].position;
      // ... and those that begin exactly at c.
      for (int64_t tied = k + 1; tied < size && !less(here, start[tied]); ++tied) {
        best = std::min(best, row[column[tied]].position);
      }
      nearest[r * grid.cols + c] = best;
    }
  }
  return nearest;
}

std::vector<int32_t> anchor_positions(const int32_t* anchors, int64_t count, int64_t tokens) {
  std::vector<int32_t> positions(static_cast<size_t>(tokens), -1);
  for (int64_t i = 0; i < count; ++i) positions[anchors[i]] = static_cast<int32_t>(i);
  return positions;
}

}  // namespace jitflux::jit
