// The softmax of flash attention on tiles: 16 queries at a time, block of keys after block. Sources
// of native/kernels/cpu only: see vector_math.h on what may stand in such a header.
//
// Against RunningSoftmax of softmax.h it saves what a row costs beside its exponentials: the
// maxima of 16 rows are found together, sums stay apart by lane until the end, and what has been
// summed up is brought to a larger maximum only where weights would outgrow 2^kHeadroom.
#pragma once

#include "kernels/cpu/softmax.h"

namespace jitflux::kernels::JIT_FLUX_ISA_NAMESPACE {

static constexpr int64_t kSoftmaxRows = 16;
static constexpr int64_t kSoftmaxLanes = 16;
// Weights are e^(score - top) for a top that the largest score exceeds by this at most, as a power
// of two: bfloat16 is as precise there as below 1, and float32's sums are far from their end.
static constexpr float kHeadroom = 8.0f;
static constexpr float kLn2 = 0.693147181f;

#if defined(__AVX512BF16__)

// Largest of each of 16 vectors.
static inline __m512 largest_of_each(const __m512 (&v)[16]) {
  // Halves the vectors four times: each step joins two, whose partial maxima lie side by side.
  __m512 a[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    a[i] = _mm512_max_ps(_mm512_shuffle_f32x4(v[i], v[i + 8], 0x44),
                         _mm512_shuffle_f32x4(v[i], v[i + 8], 0xEE));
  }
  __m512 b[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    b[i] = _mm512_max_ps(_mm512_shuffle_f32x4(a[i], a[i + 4], 0x88),
                         _mm512_shuffle_f32x4(a[i], a[i + 4], 0xDD));
  }
  __m512 c[2];
  for (int i = 0; i < 2; ++i) {
    c[i] = _mm512_max_ps(_mm512_unpacklo_ps(b[i], b[i + 2]), _mm512_unpackhi_ps(b[i], b[i + 2]));
  }
  const __m512 d =
      _mm512_max_ps(_mm512_shuffle_ps(c[0], c[1], 0x44), _mm512_shuffle_ps(c[0], c[1], 0xEE));
  // Where the steps have put row 0, 1, 2, ...
  const __m512i order = _mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15);
  return _mm512_permutexvar_ps(order, d);
}

#endif

struct TileSoftmax {
  // In powers of two. Finite, so that the first block's rescaling has no NaN; what it scales is 0.
  float top[kSoftmaxRows];
  float sum[kSoftmaxRows][kSoftmaxLanes];

  inline void start() {
    for (float& value : top) value = -1e30f;
    std::memset(sum, 0, sizeof sum);
  }

  // Weights of the next `valid` of Keys keys, as the left operand of the product with the values.
  // scores: [Keys / 16] tiles of [16 queries][16 keys]; weights: [Keys / 32] tiles of [16][32], 0
  // from `valid` on. scale > 0. `result`: the values weighted so far, [head_dim / 16] tiles of [16
  // queries][16], brought to a new top where there is one.
  template <int64_t Keys>
  inline void take(const float* scores, uint16_t* weights, int64_t valid, float scale,
                   float* result, int64_t head_dim) {
    if (valid >= Keys) {
      take_block<Keys, true>(scores, weights, valid, scale * kLog2E, result, head_dim);
    } else {
      take_block<Keys, false>(scores, weights, valid, scale * kLog2E, result, head_dim);
    }
  }

  // out[head_dim] = result / sum, of one query.
  inline void finish(int64_t row, const float* result, int64_t head_dim, uint16_t* out) const {
    float total = 0.0f;
    for (const float lane : sum[row]) total += lane;
    const float inverse = 1.0f / total;
    for (int64_t d = 0; d < head_dim; d += kSoftmaxLanes) {
      const float* of = result + d * kSoftmaxRows + row * kSoftmaxLanes;
      for (int64_t i = 0; i < kSoftmaxLanes; ++i) store(out + d + i, of[i] * inverse);
    }
  }

 private:
  inline void raise(int64_t row, float to, float* result, int64_t head_dim) {
    const float factor = exp_approx((top[row] - to) * kLn2);
    top[row] = to;
    for (float& lane : sum[row]) lane *= factor;
    for (int64_t d = 0; d < head_dim; d += kSoftmaxLanes) {
      float* of = result + d * kSoftmaxRows + row * kSoftmaxLanes;
      for (int64_t i = 0; i < kSoftmaxLanes; ++i) of[i] *= factor;
    }
  }

#if defined(__AVX512BF16__)

  // Keys 16 v to 16 v + 15 of one query.
  template <bool Whole>
  static inline __m512 load_scores(const float* scores, int64_t row, int64_t v, int64_t valid) {
    const float* from = scores + (v * kSoftmaxRows + row) * kSoftmaxLanes;
    if constexpr (Whole) return _mm512_loadu_ps(from);
    const int64_t left = valid - v * kWidth;
    const __mmask16 inside =
        left >= kWidth ? 0xFFFF : static_cast<__mmask16>(left > 0 ? (1u << left) - 1 : 0);
    return _mm512_mask_loadu_ps(_mm512_set1_ps(-1e30f), inside, from);
  }

  template <int64_t Keys, bool Whole>
  inline void take_block(const float* scores, uint16_t* weights, int64_t valid, float factor,
                         float* result, int64_t head_dim) {
    constexpr int64_t kVectors = Keys / kWidth;
    static_assert(kVectors % 2 == 0);
    __m512 largest[kSoftmaxRows];
#pragma GCC unroll 16
    for (int64_t r = 0; r < kSoftmaxRows; ++r) {
      largest[r] = load_scores<Whole>(scores, r, 0, valid);
    }
    for (int64_t v = 1; v < kVectors; ++v) {
#pragma GCC unroll 16
      for (int64_t r = 0; r < kSoftmaxRows; ++r) {
        largest[r] = _mm512_max_ps(largest[r], load_scores<Whole>(scores, r, v, valid));
      }
    }
    const __m512 highest = _mm512_mul_ps(largest_of_each(largest), _mm512_set1_ps(factor));
    const __m512 limit = _mm512_add_ps(_mm512_loadu_ps(top), _mm512_set1_ps(kHeadroom));
    unsigned raised = _mm512_cmp_ps_mask(highest, limit, _CMP_GT_OQ);
    if (raised != 0) {
      float to[kSoftmaxRows];
      _mm512_storeu_ps(to, highest);
      for (; raised != 0; raised &= raised - 1) {
        const int64_t row = __builtin_ctz(raised);
        raise(row, to[row], result, head_dim);
      }
    }
    const __m512 factors = _mm512_set1_ps(factor);
    __m512 sums[kSoftmaxRows];
#pragma GCC unroll 16
    for (int64_t r = 0; r < kSoftmaxRows; ++r) sums[r] = _mm512_loadu_ps(sum[r]);
    for (int64_t v = 0; v < kVectors; v += 2, weights += 2 * kSoftmaxRows * kSoftmaxLanes) {
#pragma GCC unroll 16
      for (int64_t r = 0; r < kSoftmaxRows; ++r) {
        const __m512 shift = _mm512_set1_ps(top[r]);
        const auto weight = [&](int64_t vector) {
          return exp2_vector<false>(
              _mm512_fmsub_ps(load_scores<Whole>(scores, r, vector, valid), factors, shift));
        };
        const __m512 first = weight(v);
        const __m512 second = weight(v + 1);
        sums[r] = _mm512_add_ps(sums[r], _mm512_add_ps(first, second));
        const __m512bh pair = _mm512_cvtne2ps_pbh(second, first);
        std::memcpy(weights + r * 2 * kSoftmaxLanes, &pair, sizeof pair);
      }
    }
#pragma GCC unroll 16
    for (int64_t r = 0; r < kSoftmaxRows; ++r) _mm512_storeu_ps(sum[r], sums[r]);
  }

#else

  template <int64_t Keys, bool Whole>
  inline void take_block(const float* scores, uint16_t* weights, int64_t valid, float factor,
                         float* result, int64_t head_dim) {
    const auto score = [&](int64_t row, int64_t key) {
      return scores[(key / kSoftmaxLanes * kSoftmaxRows + row) * kSoftmaxLanes +
                    key % kSoftmaxLanes];
    };
    constexpr int64_t kPair = 2 * kSoftmaxLanes;  // keys of a tile of weights
    for (int64_t r = 0; r < kSoftmaxRows; ++r) {
      float highest = -1e30f;
      for (int64_t j = 0; j < valid && j < Keys; ++j) {
        highest = score(r, j) > highest ? score(r, j) : highest;
      }
      highest *= factor;
      if (highest > top[r] + kHeadroom) raise(r, highest, result, head_dim);
      for (int64_t j = 0; j < Keys; ++j) {
        // exp_approx saturates instead of reaching zero.
        const float e = j < valid ? exp_approx((score(r, j) * factor - top[r]) * kLn2) : 0.0f;
        sum[r][j % kSoftmaxLanes] += e;
        store(weights + (j / kPair * kSoftmaxRows + r) * kPair + j % kPair, e);
      }
    }
  }

#endif
};

}  // namespace jitflux::kernels::JIT_FLUX_ISA_NAMESPACE
