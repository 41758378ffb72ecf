// The flash attention of attention.cc on the tiles of Intel AMX, for bfloat16.
//
// Two tiles of queries meet two tiles of keys (and weights two tiles of values), so that four
// products share four loads: 16 cycles each, against 8 for a load. A block of keys is long, since
// its results are read and written once for each of its products with the values, and since every
// row of its softmax ends in reductions across a vector; what is shared by the query groups of a
// call, 128 KiB at a head size of 128, stays in the second-level cache.
#include "kernels/cpu/amx_tile.h"
#include "kernels/cpu/tables.h"

#if JIT_FLUX_AMX

#include "kernels/cpu/softmax.h"

namespace jitflux::kernels::JIT_FLUX_ISA_NAMESPACE {

static constexpr int64_t kSide = 16;                  // rows of a tile; columns of a result
static constexpr int64_t kDepth = 2 * kSide;          // of one product
static constexpr int64_t kGroup = 2 * kSide;          // queries that go through a block together
static constexpr int64_t kBlock = 256;                // keys of a block
static constexpr int64_t kElements = kSide * kDepth;  // of a packed tile
static_assert(kAttentionQueries % kGroup == 0);

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

// scores[32][kBlock] = query keys^T for `keys` keys, a multiple of 32. query: [32][depth].
static inline void score(const uint16_t* query, const uint16_t* packed, int64_t depth, int64_t keys,
                         float* scores) {
  const int64_t query_bytes = depth * static_cast<int64_t>(sizeof(uint16_t));
  constexpr int64_t kScoreBytes = kBlock * static_cast<int64_t>(sizeof(float));
  for (int64_t key = 0; key < keys; key += 2 * kSide) {
    const uint16_t* first = packed + key * depth;
    const uint16_t* second = first + kSide * depth;
    tile_zero<0>();
    tile_zero<1>();
    tile_zero<2>();
    tile_zero<3>();
    for (int64_t d = 0; d < depth; d += kDepth) {
      tile_load<4>(query + d, query_bytes);
      tile_load<6>(first + d * kSide, kTileRowBytes);
      tile_multiply<0, 4, 6>();
      tile_load<7>(second + d * kSide, kTileRowBytes);
      tile_multiply<1, 4, 7>();
      tile_load<5>(query + kSide * depth + d, query_bytes);
      tile_multiply<2, 5, 6>();
      tile_multiply<3, 5, 7>();
    }
    tile_store<0>(scores + key, kScoreBytes);
    tile_store<1>(scores + key + kSide, kScoreBytes);
    tile_store<2>(scores + kSide * kBlock + key, kScoreBytes);
    tile_store<3>(scores + kSide * kBlock + key + kSide, kScoreBytes);
  }
}

// result[32][head_dim] += weights values for `keys` keys, a multiple of 32. weights: [32][kBlock].
static inline void accumulate(const uint16_t* weights, const uint16_t* packed, int64_t keys,
                              int64_t head_dim, float* result) {
  constexpr int64_t kWeightBytes = kBlock * static_cast<int64_t>(sizeof(uint16_t));
  const int64_t result_bytes = head_dim * static_cast<int64_t>(sizeof(float));
  const int64_t next_keys = head_dim * kDepth;
  int64_t d = 0;
  for (; d + 2 * kSide <= head_dim; d += 2 * kSide) {
    float* top = result + d;
    float* bottom = top + kSide * head_dim;
    tile_load<0>(top, result_bytes);
    tile_load<1>(top + kSide, result_bytes);
    tile_load<2>(bottom, result_bytes);
    tile_load<3>(bottom + kSide, result_bytes);
    const uint16_t* right = packed + d * kDepth;
    for (int64_t key = 0; key < keys; key += kDepth, right += next_keys) {
      tile_load<4>(weights + key, kWeightBytes);
      tile_load<6>(right, kTileRowBytes);
      tile_multiply<0, 4, 6>();
      tile_load<7>(right + kElements, kTileRowBytes);
      tile_multiply<1, 4, 7>();
      tile_load<5>(weights + kSide * kBlock + key, kWeightBytes);
      tile_multiply<2, 5, 6>();
      tile_multiply<3, 5, 7>();
    }
    tile_store<0>(top, result_bytes);
    tile_store<1>(top + kSide, result_bytes);
    tile_store<2>(bottom, result_bytes);
    tile_store<3>(bottom + kSide, result_bytes);
  }
  if (d == head_dim) return;
  float* bottom = result + kSide * head_dim + d;
  tile_load<0>(result + d, result_bytes);
  tile_load<2>(bottom, result_bytes);
  const uint16_t* right = packed + d * kDepth;
  for (int64_t key = 0; key < keys; key += kDepth, right += next_keys) {
    tile_load<6>(right, kTileRowBytes);
    tile_load<4>(weights + key, kWeightBytes);
    tile_multiply<0, 4, 6>();
    tile_load<5>(weights + kSide * kBlock + key, kWeightBytes);
    tile_multiply<2, 5, 6>();
  }
  tile_store<0>(result + d, result_bytes);
  tile_store<2>(bottom, result_bytes);
}

static void attend(const Attend<BFloat16Bits>& a) {
  const int64_t head_dim = a.head_dim;
  const int64_t depth = round_up(head_dim, kDepth);
  const auto* packed_k = static_cast<const uint16_t*>(a.packed);
  const uint16_t* packed_v = packed_k + round_up(a.keys, kDepth) * depth;
  const int64_t padded = round_up(a.rows, kGroup);

  alignas(64) uint16_t query[kAttentionQueries * kAttentionMaxHeadDim];
  alignas(64) float scores[kGroup * kBlock];
  alignas(64) uint16_t weights[kGroup * kBlock];
  alignas(64) float result[kAttentionQueries * kAttentionMaxHeadDim];
  RunningSoftmax softmax[kAttentionQueries];

  // Rows that are not there are computed, as zeros, and left where they are.
  const auto bytes = static_cast<size_t>(head_dim) * sizeof(uint16_t);
  if (depth != head_dim || padded != a.rows) std::memset(query, 0, sizeof query);
  for (int64_t r = 0; r < a.rows; ++r) {
    std::memcpy(query + r * depth, a.q + r * a.q_stride, bytes);
  }
  std::memset(result, 0, static_cast<size_t>(padded * head_dim) * sizeof(float));
  if (padded != a.rows) std::memset(weights, 0, sizeof weights);

  const TileSession session;
  for (int64_t first = 0; first < a.keys; first += kBlock) {
    const int64_t valid = a.keys - first < kBlock ? a.keys - first : kBlock;
    const int64_t keys = round_up(valid, kDepth);
    for (int64_t group = 0; group < padded; group += kGroup) {
      score(query + group * depth, packed_k + first * depth, depth, keys, scores);
      const int64_t rows = a.rows - group < kGroup ? a.rows - group : kGroup;
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t row = group + r;
        softmax[row].take<kBlock>(scores + r * kBlock, weights + r * kBlock, valid, a.scale,
                                  result + row * head_dim, head_dim);
      }
      accumulate(weights, packed_v + first * head_dim, keys, head_dim, result + group * head_dim);
    }
  }
  for (int64_t r = 0; r < a.rows; ++r) {
    softmax[r].finish(result + r * head_dim, head_dim, a.out + r * a.out_stride);
  }
}

template <>
AttentionKernels<BFloat16Bits> attention_kernels<BFloat16Bits>() {
  return {.packed_bytes = packed_bytes, .pack = pack, .attend = attend};
}

}  // namespace jitflux::kernels::JIT_FLUX_ISA_NAMESPACE

#endif
