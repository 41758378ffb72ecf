// Products of small matrices in registers, the inner part of attention and of the latent embedding.
// Sources of native/kernels/cpu only: see vector_math.h on what may stand in such a header.
#pragma once

#include "kernels/cpu/vectors.h"

namespace jitflux::kernels::JIT_FLUX_ISA_NAMESPACE {

// The register tile: kTileRows x kTileVectors accumulators plus operands fill the register file (32
// registers with AVX-512, 16 below).
#if defined(__AVX512F__)
static constexpr int64_t kTileVectors = 4;
#else
static constexpr int64_t kTileVectors = 2;
#endif
static constexpr int64_t kTileRows = 6;

// ---- c[M x N] (+)= a[M x K] b[K x N], row-major with the given strides; N a multiple of kWidth.
// The tile's sizes are template parameters so that the accumulators stay in registers.

template <int64_t Rows, int64_t Vectors>
static inline void tile_f32(const float* a, int64_t lda, const float* b, int64_t ldb, float* c,
                            int64_t ldc, int64_t depth, bool accumulate) {
  Vector sum[Rows][Vectors];
#pragma GCC unroll 8
  for (int64_t r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int64_t v = 0; v < Vectors; ++v) {
      sum[r][v] =
          accumulate ? *reinterpret_cast<const Vector*>(c + r * ldc + v * kWidth) : Vector{};
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
    Vector right[Vectors];
#pragma GCC unroll 8
    for (int64_t v = 0; v < Vectors; ++v) {
      right[v] = *reinterpret_cast<const Vector*>(b + k * ldb + v * kWidth);
    }
#pragma GCC unroll 8
    for (int64_t r = 0; r < Rows; ++r) {
      const Vector left = broadcast(a[r * lda + k]);
#pragma GCC unroll 8
      for (int64_t v = 0; v < Vectors; ++v) sum[r][v] += left * right[v];
    }
  }
#pragma GCC unroll 8
  for (int64_t r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int64_t v = 0; v < Vectors; ++v) {
      *reinterpret_cast<Vector*>(c + r * ldc + v * kWidth) = sum[r][v];
    }
  }
}

#if defined(__AVX512BF16__)

// The same with bfloat16 operands, two steps of K at a time: a holds pairs along K, b is packed as
// [K/2][N][2]. `ldb` in elements of one K step pair: 2 N.
template <int64_t Rows, int64_t Vectors>
static inline void tile_bf16(const uint16_t* a, int64_t lda, const uint16_t* b, int64_t ldb,
                             float* c, int64_t ldc, int64_t depth, bool accumulate) {
  __m512 sum[Rows][Vectors];
#pragma GCC unroll 8
  for (int64_t r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int64_t v = 0; v < Vectors; ++v) {
      sum[r][v] = accumulate ? _mm512_loadu_ps(c + r * ldc + v * kWidth) : _mm512_setzero_ps();
    }
  }
  for (int64_t k = 0; k < depth; k += 2) {
    __m512i right[Vectors];
#pragma GCC unroll 8
    for (int64_t v = 0; v < Vectors; ++v) {
      right[v] = _mm512_loadu_si512(b + (k / 2) * ldb + v * 2 * kWidth);
    }
#pragma GCC unroll 8
    for (int64_t r = 0; r < Rows; ++r) {
      int32_t pair;
      std::memcpy(&pair, a + r * lda + k, sizeof pair);
      const __m512i left = _mm512_set1_epi32(pair);
#pragma GCC unroll 8
      for (int64_t v = 0; v < Vectors; ++v) {
        sum[r][v] = _mm512_dpbf16_ps(sum[r][v], reinterpret_cast<__m512bh>(left),
                                     reinterpret_cast<__m512bh>(right[v]));
      }
    }
  }
#pragma GCC unroll 8
  for (int64_t r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int64_t v = 0; v < Vectors; ++v) {
      _mm512_storeu_ps(c + r * ldc + v * kWidth, sum[r][v]);
    }
  }
}

#endif

// What differs between operand types: the element, how one row of tiles is computed, how far apart
// columns of b lie.
struct Float32Operand {
  using Element = float;
  static constexpr int64_t kColumn = 1;
  template <int64_t Rows, int64_t Vectors>
  static void tile(const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc,
                   int64_t depth, bool accumulate) {
    tile_f32<Rows, Vectors>(a, lda, b, ldb, c, ldc, depth, accumulate);
  }
};

#if defined(__AVX512BF16__)
struct BFloat16Operand {
  using Element = uint16_t;
  static constexpr int64_t kColumn = 2;
  template <int64_t Rows, int64_t Vectors>
  static void tile(const uint16_t* a, int64_t lda, const uint16_t* b, int64_t ldb, float* c,
                   int64_t ldc, int64_t depth, bool accumulate) {
    tile_bf16<Rows, Vectors>(a, lda, b, ldb, c, ldc, depth, accumulate);
  }
};
// bfloat16 activations are multiplied as they are.
using BFloat16Compute = BFloat16Operand;
#else
// Without bfloat16 dot products bfloat16 activations are widened when packed.
using BFloat16Compute = Float32Operand;
#endif

template <typename Operand, int64_t Rows>
static inline void row_of_tiles(const typename Operand::Element* a, int64_t lda,
                                const typename Operand::Element* b, int64_t ldb, float* c,
                                int64_t ldc, int64_t columns, int64_t depth, bool accumulate) {
  int64_t n = 0;
  for (; n + kTileVectors * kWidth <= columns; n += kTileVectors * kWidth) {
    Operand::template tile<Rows, kTileVectors>(a, lda, b + n * Operand::kColumn, ldb, c + n, ldc,
                                               depth, accumulate);
  }
  for (; n < columns; n += kWidth) {
    Operand::template tile<Rows, 1>(a, lda, b + n * Operand::kColumn, ldb, c + n, ldc, depth,
                                    accumulate);
  }
}

template <typename Operand>
static inline void multiply(const typename Operand::Element* a, int64_t lda,
                            const typename Operand::Element* b, int64_t ldb, float* c, int64_t ldc,
                            int64_t rows, int64_t columns, int64_t depth, bool accumulate) {
  int64_t r = 0;
  for (; r + kTileRows <= rows; r += kTileRows) {
    row_of_tiles<Operand, kTileRows>(a + r * lda, lda, b, ldb, c + r * ldc, ldc, columns, depth,
                                     accumulate);
  }
  for (; r < rows; ++r) {
    row_of_tiles<Operand, 1>(a + r * lda, lda, b, ldb, c + r * ldc, ldc, columns, depth,
                             accumulate);
  }
}

}  // namespace jitflux::kernels::JIT_FLUX_ISA_NAMESPACE
