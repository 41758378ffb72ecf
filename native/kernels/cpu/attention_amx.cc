// The flash attention of attention.cc on the tiles of Intel AMX, for bfloat16.
//
// Two tiles of queries meet two tiles of keys (and weights two tiles of values), so that four
// products share four loads: 16 cycles each, against 8 for a load. A block of keys is long, since
// its results are read and written once for each of its products with the values. Many queries
// share a pass over the keys: those of a head (2.4 MB at 4608 keys of 128) come from the
// third-level cache every time, at a rate of which 96 queries wanted all that a core gets.
#include "kernels/cpu/amx_tile.h"
#include "kernels/cpu/tables.h"

#if JIT_FLUX_AMX

#include "kernels/cpu/tile_softmax.h"

namespace jitflux::kernels::JIT_FLUX_ISA_NAMESPACE {

static constexpr int64_t kSide = 16;                  // rows of a tile; columns of a result
static constexpr int64_t kDepth = 2 * kSide;          // of one product
static constexpr int64_t kGroup = 2 * kSide;          // queries that go through a block together
static constexpr int64_t kBlock = 256;                // keys of a block
static constexpr int64_t kElements = kSide * kDepth;  // of an operand's tile
static constexpr int64_t kResults = kSide * kSide;    // of a result's
static constexpr int64_t kQueries = 384;              // that share a pass over the keys
static_assert(kQueries % kGroup == 0);

static constexpr int64_t round_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

// Keys: [key / 16][d / 32] tiles of [d pair][key][2], head_dim filled up with zeros to a multiple
// of 32. Values: [key / 32][d / 16] tiles of [key pair][d][2]. Keys filled up to a multiple of 32.
static int64_t packed_bytes(int64_t keys, int64_t head_dim) {
  const int64_t rows = round_up(keys, kDepth);
  return rows * (round_up(head_dim, kDepth) + head_dim) * static_cast<int64_t>(sizeof(uint16_t));
}

static void pack_keys(const uint16_t* k, int64_t stride, int64_t keys, int64_t head_dim,
                      uint16_t* packed) {
  for (int64_t first = 0; first < round_up(keys, kDepth); first += kSide) {
    for (int64_t d = 0; d < head_dim; d += kDepth, packed += kElements) {
      uint32_t tile[kSide][kSide];
      const int64_t pairs = (head_dim - d < kDepth ? head_dim - d : kDepth) / 2;
      if (first + kSide > keys || pairs < kSide) std::memset(tile, 0, sizeof tile);
      for (int64_t key = 0; key < kSide && first + key < keys; ++key) {
        const uint16_t* from = k + (first + key) * stride + d;
        for (int64_t pair = 0; pair < pairs; ++pair) {
          std::memcpy(&tile[pair][key], from + 2 * pair, sizeof(uint32_t));
        }
      }
      std::memcpy(packed, tile, sizeof tile);
    }
  }
}

static void pack_values(const uint16_t* v, int64_t stride, int64_t keys, int64_t head_dim,
                        uint16_t* packed) {
  const uint16_t zeros[kSide] = {};
  for (int64_t first = 0; first < round_up(keys, kDepth); first += kDepth) {
    for (int64_t d = 0; d < head_dim; d += kSide) {
      for (int64_t pair = 0; pair < kSide; ++pair, packed += 2 * kSide) {
        const int64_t key = first + 2 * pair;
        const uint16_t* even = key < keys ? v + key * stride + d : zeros;
        const uint16_t* odd = key + 1 < keys ? v + (key + 1) * stride + d : zeros;
        for (int64_t i = 0; i < kSide; ++i) {
          packed[2 * i] = even[i];
          packed[2 * i + 1] = odd[i];
        }
      }
    }
  }
}

static void pack(const uint16_t* k, const uint16_t* v, int64_t stride, int64_t keys,
                 int64_t head_dim, void* packed) {
  auto* to = static_cast<uint16_t*>(packed);
  pack_keys(k, stride, keys, head_dim, to);
  pack_values(v, stride, keys, head_dim, to + round_up(keys, kDepth) * round_up(head_dim, kDepth));
}

// What the next block of keys is multiplied with comes from memory or the third-level cache: it is
// on its way to the second-level cache while this block is computed.
struct Ahead {
  const uint16_t* at;
  int64_t lines;  // of a step

  inline void step() {
    constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(uint16_t));
    for (int64_t i = 0; i < lines; ++i, at += kLine) __builtin_prefetch(at, 0, 2);
  }

  // Of a block of packed keys or values of `width`: the share of the queries `group` to `group` +
  // kGroup of `queries`, in `steps` steps.
  static inline Ahead of(const uint16_t* block, int64_t width, int64_t group, int64_t queries,
                         int64_t steps) {
    constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(uint16_t));
    const int64_t lines = kBlock * width / kLine;
    return {block + lines * group / queries * kLine,
            (lines * kGroup / queries + steps - 1) / steps};
  }
};

// Operands and results of the products lie tile by tile: rows that are far apart would meet in the
// same lines of the first-level cache. Two tiles one above the other are `half` elements apart.

// scores = query keys^T for `keys` keys, a multiple of 32. query: [2 halves][depth / 32] tiles of
// [16][32]; scores: [2 halves][kBlock / 16] tiles of [16][16].
static inline void score(const uint16_t* query, const uint16_t* packed, int64_t depth, int64_t keys,
                         float* scores, Ahead ahead) {
  constexpr int64_t kHalf = kSide * kBlock;
  const int64_t query_half = kSide * depth;
  for (int64_t key = 0; key < keys; key += 2 * kSide) {
    const uint16_t* first = packed + key * depth;
    const uint16_t* second = first + kSide * depth;
    ahead.step();
    tile_zero<0>();
    tile_zero<1>();
    tile_zero<2>();
    tile_zero<3>();
    for (int64_t d = 0; d < kSide * depth; d += kElements) {
      tile_load<4>(query + d, kTileRowBytes);
      tile_load<6>(first + d, kTileRowBytes);
      tile_multiply<0, 4, 6>();
      tile_load<7>(second + d, kTileRowBytes);
      tile_multiply<1, 4, 7>();
      tile_load<5>(query + query_half + d, kTileRowBytes);
      tile_multiply<2, 5, 6>();
      tile_multiply<3, 5, 7>();
    }
    float* to = scores + key * kSide;
    tile_store<0>(to, kTileRowBytes);
    tile_store<1>(to + kResults, kTileRowBytes);
    tile_store<2>(to + kHalf, kTileRowBytes);
    tile_store<3>(to + kHalf + kResults, kTileRowBytes);
  }
}

// result += weights values for `keys` keys, a multiple of 32. weights: [2 halves][kBlock / 32]
// tiles of [16][32]; result: [2 halves][head_dim / 16] tiles of [16][16].
static inline void accumulate(const uint16_t* weights, const uint16_t* packed, int64_t keys,
                              int64_t head_dim, float* result, Ahead ahead) {
  constexpr int64_t kHalf = kSide * kBlock;
  const int64_t result_half = kSide * head_dim;
  const int64_t next_keys = head_dim * kDepth;
  int64_t d = 0;
  for (; d + 2 * kSide <= head_dim; d += 2 * kSide) {
    float* top = result + d * kSide;
    float* bottom = top + result_half;
    ahead.step();
    tile_load<0>(top, kTileRowBytes);
    tile_load<1>(top + kResults, kTileRowBytes);
    tile_load<2>(bottom, kTileRowBytes);
    tile_load<3>(bottom + kResults, kTileRowBytes);
    const uint16_t* right = packed + d * kDepth;
    for (int64_t key = 0; key < keys; key += kDepth, right += next_keys) {
      tile_load<4>(weights + key * kSide, kTileRowBytes);
      tile_load<6>(right, kTileRowBytes);
      tile_multiply<0, 4, 6>();
      tile_load<7>(right + kElements, kTileRowBytes);
      tile_multiply<1, 4, 7>();
      tile_load<5>(weights + kHalf + key * kSide, kTileRowBytes);
      tile_multiply<2, 5, 6>();
      tile_multiply<3, 5, 7>();
    }
    tile_store<0>(top, kTileRowBytes);
    tile_store<1>(top + kResults, kTileRowBytes);
    tile_store<2>(bottom, kTileRowBytes);
    tile_store<3>(bottom + kResults, kTileRowBytes);
  }
  if (d == head_dim) return;
  float* top = result + d * kSide;
  tile_load<0>(top, kTileRowBytes);
  tile_load<2>(top + result_half, kTileRowBytes);
  const uint16_t* right = packed + d * kDepth;
  for (int64_t key = 0; key < keys; key += kDepth, right += next_keys) {
    tile_load<6>(right, kTileRowBytes);
    tile_load<4>(weights + key * kSide, kTileRowBytes);
    tile_multiply<0, 4, 6>();
    tile_load<5>(weights + kHalf + key * kSide, kTileRowBytes);
    tile_multiply<2, 5, 6>();
  }
  tile_store<0>(top, kTileRowBytes);
  tile_store<2>(top + result_half, kTileRowBytes);
}

static void attend(const Attend<BFloat16Bits>& a) {
  const int64_t head_dim = a.head_dim;
  const int64_t depth = round_up(head_dim, kDepth);
  const auto* packed_k = static_cast<const uint16_t*>(a.packed);
  const uint16_t* packed_v = packed_k + round_up(a.keys, kDepth) * depth;
  const int64_t padded = round_up(a.rows, kGroup);

  alignas(64) uint16_t query[kQueries * kAttentionMaxHeadDim];
  alignas(64) float scores[kGroup * kBlock];
  alignas(64) uint16_t weights[kGroup * kBlock];
  alignas(64) float result[kQueries * kAttentionMaxHeadDim];
  TileSoftmax softmax[kQueries / kSide];

  // Rows that are not there are computed, as zeros, and left where they are.
  if (depth != head_dim || padded != a.rows) {
    std::memset(query, 0, static_cast<size_t>(padded * depth) * sizeof(uint16_t));
  }
  for (int64_t r = 0; r < a.rows; ++r) {
    const uint16_t* from = a.q + r * a.q_stride;
    uint16_t* to = query + r / kSide * kSide * depth + r % kSide * kDepth;
    for (int64_t d = 0; d < head_dim; d += kDepth, to += kElements) {
      const int64_t count = head_dim - d < kDepth ? head_dim - d : kDepth;
      std::memcpy(to, from + d, static_cast<size_t>(count) * sizeof(uint16_t));
    }
  }
  std::memset(result, 0, static_cast<size_t>(padded * head_dim) * sizeof(float));
  for (int64_t row = 0; row < padded; row += kSide) softmax[row / kSide].start();

  const TileSession session;
  for (int64_t first = 0; first < a.keys; first += kBlock) {
    const int64_t valid = a.keys - first < kBlock ? a.keys - first : kBlock;
    const int64_t keys = round_up(valid, kDepth);
    const int64_t next = first + kBlock;
    const bool more = next + kBlock <= a.keys;
    for (int64_t group = 0; group < padded; group += kGroup) {
      Ahead next_k = {};
      Ahead next_v = {};
      if (more) {
        next_k = Ahead::of(packed_k + next * depth, depth, group, padded, kBlock / kDepth);
        next_v = Ahead::of(packed_v + next * head_dim, head_dim, group, padded,
                           round_up(head_dim, kDepth) / kDepth);
      }
      score(query + group * depth, packed_k + first * depth, depth, keys, scores, next_k);
      for (int64_t half = 0; half < kGroup; half += kSide) {
        const int64_t row = group + half;
        softmax[row / kSide].take<kBlock>(scores + half * kBlock, weights + half * kBlock, valid,
                                          a.scale, result + row * head_dim, head_dim);
      }
      accumulate(weights, packed_v + first * head_dim, keys, head_dim, result + group * head_dim,
                 next_v);
    }
  }
  for (int64_t r = 0; r < a.rows; ++r) {
    softmax[r / kSide].finish(r % kSide, result + r / kSide * kSide * head_dim, head_dim,
                              a.out + r * a.out_stride);
  }
}

template <>
AttentionKernels<BFloat16Bits> attention_kernels<BFloat16Bits>() {
  return {.packed_bytes = packed_bytes, .pack = pack, .attend = attend, .queries = kQueries};
}

}  // namespace jitflux::kernels::JIT_FLUX_ISA_NAMESPACE

#endif
