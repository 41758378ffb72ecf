// The softmax of flash attention: one row of one block of scores, with a running maximum. Sources
// of native/kernels/cpu only: see vector_math.h on what may stand in such a header.
#pragma once

#include "kernels/cpu/vectors.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace jitflux::kernels::JIT_FLUX_ISA_NAMESPACE {

static constexpr float kLog2E = 1.44269504f;

// Raises `*maximum` to the largest of the row's scores times `scale`, if that is larger; sets
// `*rescale` to e^(old - new); writes e^(score * scale - maximum) as the left operand of the
// product with the values; returns the sum of these. Scores from `valid` on count as minus
// infinity. `weights` may be `scores` itself.
#if defined(__AVX512F__)

// 2^x: exact scaling by the instruction set, a polynomial for the fraction in [0, 1). Relative
// error 1e-7 for float32, 3e-6 where the result is rounded to bfloat16 anyway.
template <bool Exact>
static inline __m512 exp2_vector(__m512 x) {
  const __m512 r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  __m512 p;
  if constexpr (Exact) {
    p = _mm512_set1_ps(1.8775767e-3f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.9893397e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.5826318e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.4015361e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.9315308e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(9.9999994e-1f));
  } else {
    p = _mm512_set1_ps(1.3534167e-2f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.2011464e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.4144275e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.9300383e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0000026f));
  }
  return _mm512_scalef_ps(p, x);
}

static inline void store_weights(float* out, __m512 values) { _mm512_storeu_ps(out, values); }
#if defined(__AVX512BF16__)
static inline void store_weights(uint16_t* out, __m512 values) {
  const __m256bh half = _mm512_cvtneps_pbh(values);
  std::memcpy(out, &half, sizeof half);
}
#endif

template <int64_t Keys, bool Whole, typename Element>
static inline float softmax_vectors(const float* scores, Element* weights, int64_t valid,
                                    float scale, float* maximum, float* rescale) {
  constexpr int64_t kVectors = Keys / kWidth;
  const __m512 lowest = _mm512_set1_ps(-1e30f);
  __m512 s[kVectors];
  __m512 highest = lowest;
#pragma GCC unroll 16
  for (int64_t v = 0; v < kVectors; ++v) {
    if constexpr (Whole) {
      s[v] = _mm512_loadu_ps(scores + v * kWidth);
    } else {
      const int64_t left = valid - v * kWidth;
      const __mmask16 inside =
          left >= kWidth ? 0xFFFF : static_cast<__mmask16>(left > 0 ? (1u << left) - 1 : 0);
      s[v] = _mm512_mask_loadu_ps(lowest, inside, scores + v * kWidth);
    }
    highest = _mm512_max_ps(highest, s[v]);
  }
  const float row_highest = _mm512_reduce_max_ps(highest) * scale;  // scale > 0
  const float top = row_highest > *maximum ? row_highest : *maximum;
  *rescale = exp_approx(*maximum - top);
  *maximum = top;
  const __m512 factor = _mm512_set1_ps(scale * kLog2E);
  const __m512 shift = _mm512_set1_ps(top * kLog2E);
  __m512 sum = _mm512_setzero_ps();
#pragma GCC unroll 16
  for (int64_t v = 0; v < kVectors; ++v) {
    const __m512 e = exp2_vector<sizeof(Element) == 4>(_mm512_fmsub_ps(s[v], factor, shift));
    sum = _mm512_add_ps(sum, e);
    store_weights(weights + v * kWidth, e);
  }
  return _mm512_reduce_add_ps(sum);
}

template <int64_t Keys, typename Element>
static inline float softmax_row(const float* scores, Element* weights, int64_t valid, float scale,
                                float* maximum, float* rescale) {
  return valid >= Keys
             ? softmax_vectors<Keys, true>(scores, weights, valid, scale, maximum, rescale)
             : softmax_vectors<Keys, false>(scores, weights, valid, scale, maximum, rescale);
}

#else

template <int64_t Keys, typename Element>
static inline float softmax_row(const float* scores, Element* weights, int64_t valid, float scale,
                                float* maximum, float* rescale) {
  constexpr int64_t kLanes = 16;
  constexpr float kLowest = -1e30f;
  float row[Keys];
  for (int64_t j = 0; j < Keys; ++j) row[j] = j < valid ? scores[j] : kLowest;
  float lanes[kLanes];
  for (int64_t j = 0; j < kLanes; ++j) lanes[j] = row[j];
  for (int64_t i = kLanes; i < Keys; i += kLanes) {
    for (int64_t j = 0; j < kLanes; ++j) lanes[j] = row[i + j] > lanes[j] ? row[i + j] : lanes[j];
  }
  float highest = lanes[0];
  for (int64_t j = 1; j < kLanes; ++j) highest = lanes[j] > highest ? lanes[j] : highest;
  highest *= scale;  // scale > 0
  const float top = highest > *maximum ? highest : *maximum;
  *rescale = exp_approx(*maximum - top);
  *maximum = top;
  for (int64_t j = 0; j < Keys; ++j) row[j] = exp_approx(row[j] * scale - top);
  // exp_approx saturates instead of reaching zero.
  for (int64_t j = valid; j < Keys; ++j) row[j] = 0.0f;
  for (int64_t j = 0; j < Keys; ++j) store(weights + j, row[j]);
  for (int64_t j = 0; j < kLanes; ++j) lanes[j] = 0.0f;
  for (int64_t i = 0; i < Keys; i += kLanes) {
    for (int64_t j = 0; j < kLanes; ++j) lanes[j] += row[i + j];
  }
  float sum = 0.0f;
  for (int64_t j = 0; j < kLanes; ++j) sum += lanes[j];
  return sum;
}

#endif

// The softmax of one query's row of flash attention, block after block.
struct RunningSoftmax {
  // Finite, so that the first block's rescale factor e^(maximum - top) is not NaN; what it scales
  // is 0.
  float maximum = -1e30f;
  float sum = 0.0f;

  // softmax_row() of the next block; brings the sum and `result`, the [head_dim] values weighted so
  // far, to its maximum.
  template <int64_t Keys, typename Element>
  inline void take(const float* scores, Element* weights, int64_t valid, float scale, float* result,
                   int64_t head_dim) {
    float rescale;
    const float block_sum = softmax_row<Keys>(scores, weights, valid, scale, &maximum, &rescale);
    sum = sum * rescale + block_sum;
    if (rescale == 1.0f) return;
    for (int64_t d = 0; d < head_dim; ++d) result[d] *= rescale;
  }

  // out = result / sum
  template <typename T>
  inline void finish(const float* result, int64_t head_dim, T* out) const {
    const float inverse = 1.0f / sum;
    for (int64_t d = 0; d < head_dim; ++d) store(out + d, result[d] * inverse);
  }
};

}  // namespace jitflux::kernels::JIT_FLUX_ISA_NAMESPACE
