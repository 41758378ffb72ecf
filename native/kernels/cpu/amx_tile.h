// The few tile instructions of Intel AMX that the kernels use, or their emulation in plain C++, so
// that the same kernels run (slowly) on every CPU. Sources of native/kernels/cpu only: see
// vector_math.h on what may stand in such a header.
//
// A tile is a register of kTileRowCount rows of kTileRowBytes bytes. Before a thread uses tiles it
// holds a TileSession: the shape of the tiles is a state of the thread.
#pragma once

#include "kernels/cpu/vector_math.h"

#if JIT_FLUX_AMX

namespace jitflux::kernels::JIT_FLUX_ISA_NAMESPACE {

static constexpr int64_t kTileRowCount = 16;
static constexpr int64_t kTileRowBytes = 64;
static constexpr int kTiles = 8;

#if defined(__AMX_BF16__)

// Intel SDM, LDTILECFG: palette 1, and for every tile its bytes a row and its rows.
struct alignas(64) TileShapes {
  uint8_t palette = 0;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileShapes) == 64);

// All tiles at their full size. oneDNN, which shares this thread, may take the shapes that it left
// for granted: they are put back.
class TileSession {
 public:
  TileSession() {
    asm volatile("sttilecfg %0" : "=m"(before_));
    TileShapes full;
    full.palette = 1;
    for (int tile = 0; tile < kTiles; ++tile) {
      full.row_bytes[tile] = kTileRowBytes;
      full.rows[tile] = kTileRowCount;
    }
    asm volatile("ldtilecfg %0" : : "m"(full));
  }
  ~TileSession() {
    if (before_.palette == 0) {
      asm volatile("tilerelease");
    } else {
      asm volatile("ldtilecfg %0" : : "m"(before_));
    }
  }
  TileSession(const TileSession&) = delete;
  TileSession& operator=(const TileSession&) = delete;

 private:
  TileShapes before_;
};

template <int Tile>
static inline __attribute__((always_inline)) void tile_zero() {
  asm volatile("tilezero %%tmm%c0" : : "i"(Tile));
}

// Rows are `stride` bytes apart.
template <int Tile>
static inline __attribute__((always_inline)) void tile_load(const void* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(Tile) : "memory");
}

template <int Tile>
static inline __attribute__((always_inline)) void tile_store(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(Tile) : "memory");
}

// Sum[i][j] += over k of Left[i][2k] Right[k][2j] + Left[i][2k + 1] Right[k][2j + 1]: a product of
// 16 x 32 by 32 x 16 bfloat16, the right one in pairs of rows; sums in float32, subnormal numbers
// count as zero.
template <int Sum, int Left, int Right>
static inline __attribute__((always_inline)) void tile_multiply() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sum), "i"(Left), "i"(Right));
}

#else

struct EmulatedTiles {
  unsigned char bytes[kTiles][kTileRowCount * kTileRowBytes];
};

static inline EmulatedTiles& emulated_tiles() {
  static thread_local EmulatedTiles tiles;
  return tiles;
}

// What a thread has not loaded is NaN, which a kernel that forgets to load shows.
class TileSession {
 public:
  TileSession() { std::memset(&emulated_tiles(), 0xFF, sizeof(EmulatedTiles)); }
  ~TileSession() { std::memset(&emulated_tiles(), 0xFF, sizeof(EmulatedTiles)); }
  TileSession(const TileSession&) = delete;
  TileSession& operator=(const TileSession&) = delete;
};

template <int Tile>
static inline void tile_zero() {
  std::memset(emulated_tiles().bytes[Tile], 0, kTileRowCount * kTileRowBytes);
}

template <int Tile>
static inline void tile_load(const void* from, int64_t stride) {
  for (int64_t row = 0; row < kTileRowCount; ++row) {
    std::memcpy(emulated_tiles().bytes[Tile] + row * kTileRowBytes,
                static_cast<const unsigned char*>(from) + row * stride, kTileRowBytes);
  }
}

template <int Tile>
static inline void tile_store(void* to, int64_t stride) {
  for (int64_t row = 0; row < kTileRowCount; ++row) {
    std::memcpy(static_cast<unsigned char*>(to) + row * stride,
                emulated_tiles().bytes[Tile] + row * kTileRowBytes, kTileRowBytes);
  }
}

template <int Sum, int Left, int Right>
static inline void tile_multiply() {
  constexpr int64_t kColumns = kTileRowBytes / static_cast<int64_t>(sizeof(float));
  float sum[kTileRowCount][kColumns];
  uint16_t left[kTileRowCount][2 * kColumns];
  uint16_t right[kTileRowCount][2 * kColumns];
  std::memcpy(sum, emulated_tiles().bytes[Sum], sizeof sum);
  std::memcpy(left, emulated_tiles().bytes[Left], sizeof left);
  std::memcpy(right, emulated_tiles().bytes[Right], sizeof right);
  for (int64_t i = 0; i < kTileRowCount; ++i) {
    for (int64_t k = 0; k < kTileRowCount; ++k) {
      const float even = load(left[i][2 * k]);
      const float odd = load(left[i][2 * k + 1]);
      for (int64_t j = 0; j < kColumns; ++j) {
        sum[i][j] += even * load(right[k][2 * j]) + odd * load(right[k][2 * j + 1]);
      }
    }
  }
  std::memcpy(emulated_tiles().bytes[Sum], sum, sizeof sum);
}

#endif

}  // namespace jitflux::kernels::JIT_FLUX_ISA_NAMESPACE

#endif
