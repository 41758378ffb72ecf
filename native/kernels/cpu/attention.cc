// Flash attention of one head: softmax(scale q k^T) v, blockwise with a running maximum, nothing of
// size S x S. K and V are packed once per layer into the order in which the tiles read them.
#include <cmath>

#include "kernels/cpu/tables.h"
#include "kernels/cpu/tile.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace jitflux::kernels::JIT_FLUX_ISA_NAMESPACE {

static constexpr int64_t kKeys = kAttentionKeyBlock;    // keys of one block
static constexpr int64_t kQueries = kAttentionQueries;  // queries that share a pass over the keys

// ---- packing

// Element type in which T is multiplied.
template <typename T>
struct Compute {
  using Operand = Float32Operand;
};
template <>
struct Compute<BFloat16Bits> {
  using Operand = BFloat16Compute;
};

template <typename Operand, typename T>
static typename Operand::Element convert(T value) {
  typename Operand::Element out;
  if constexpr (sizeof(T) == sizeof(out)) {
    out = value;
  } else {
    store(&out, load(value));
  }
  return out;
}

// Keys: [block][d / kColumn][key in block][kColumn]; values: [key / kColumn][d][kColumn]. The last
// block is filled up with zeros.
template <typename T>
static int64_t packed_bytes(int64_t keys, int64_t head_dim) {
  using Element = typename Compute<T>::Operand::Element;
  const int64_t blocks = (keys + kKeys - 1) / kKeys;
  return 2 * blocks * kKeys * head_dim * static_cast<int64_t>(sizeof(Element));
}

template <typename T>
static void pack(const T* k, const T* v, int64_t stride, int64_t keys, int64_t head_dim,
                 void* packed) {
  using Operand = typename Compute<T>::Operand;
  using Element = typename Operand::Element;
  constexpr int64_t kColumn = Operand::kColumn;
  const int64_t blocks = (keys + kKeys - 1) / kKeys;
  auto* packed_k = static_cast<Element*>(packed);
  Element* packed_v = packed_k + blocks * kKeys * head_dim;
  for (int64_t key = 0; key < blocks * kKeys; ++key) {
    Element* to_k = packed_k + (key / kKeys) * kKeys * head_dim + (key % kKeys) * kColumn;
    Element* to_v = packed_v + (key / kColumn) * kColumn * head_dim + key % kColumn;
    const bool inside = key < keys;
    const T* from_k = k + (inside ? key : 0) * stride;
    const T* from_v = v + (inside ? key : 0) * stride;
    for (int64_t d = 0; d < head_dim; ++d) {
      to_k[(d / kColumn) * kColumn * kKeys + d % kColumn] =
          inside ? convert<Operand>(from_k[d]) : Element{};
      to_v[d * kColumn] = inside ? convert<Operand>(from_v[d]) : Element{};
    }
  }
}

// ---- softmax of one block of scores

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

template <typename Element>
static float softmax_row(const float* scores, Element* weights, int64_t valid, float scale,
                         float* maximum, float* rescale) {
  constexpr int64_t kVectors = kKeys / kWidth;
  constexpr float kLog2E = 1.44269504f;
  const __m512 lowest = _mm512_set1_ps(-1e30f);
  __m512 s[kVectors];
  __m512 highest = lowest;
  for (int64_t v = 0; v < kVectors; ++v) {
    const int64_t left = valid - v * kWidth;
    const __mmask16 inside =
        left >= kWidth ? 0xFFFF : static_cast<__mmask16>(left > 0 ? (1u << left) - 1 : 0);
    s[v] = _mm512_mask_loadu_ps(lowest, inside, scores + v * kWidth);
    highest = _mm512_max_ps(highest, s[v]);
  }
  const float row_highest = _mm512_reduce_max_ps(highest) * scale;  // scale > 0
  const float top = row_highest > *maximum ? row_highest : *maximum;
  *rescale = exp_approx(*maximum - top);
  *maximum = top;
  const __m512 factor = _mm512_set1_ps(scale * kLog2E);
  const __m512 shift = _mm512_set1_ps(top * kLog2E);
  __m512 sum = _mm512_setzero_ps();
  for (int64_t v = 0; v < kVectors; ++v) {
    const __m512 e = exp2_vector<sizeof(Element) == 4>(_mm512_fmsub_ps(s[v], factor, shift));
    sum = _mm512_add_ps(sum, e);
    store_weights(weights + v * kWidth, e);
  }
  return _mm512_reduce_add_ps(sum);
}

#else

static float softmax_row(const float* scores, float* weights, int64_t valid, float scale,
                         float* maximum, float* rescale) {
  constexpr int64_t kLanes = 16;
  constexpr float kLowest = -1e30f;
  float row[kKeys];
  for (int64_t j = 0; j < kKeys; ++j) row[j] = j < valid ? scores[j] : kLowest;
  float lanes[kLanes];
  for (int64_t j = 0; j < kLanes; ++j) lanes[j] = row[j];
  for (int64_t i = kLanes; i < kKeys; i += kLanes) {
    for (int64_t j = 0; j < kLanes; ++j) lanes[j] = row[i + j] > lanes[j] ? row[i + j] : lanes[j];
  }
  float highest = lanes[0];
  for (int64_t j = 1; j < kLanes; ++j) highest = lanes[j] > highest ? lanes[j] : highest;
  highest *= scale;  // scale > 0
  const float top = highest > *maximum ? highest : *maximum;
  *rescale = exp_approx(*maximum - top);
  *maximum = top;
  for (int64_t j = 0; j < kKeys; ++j) weights[j] = exp_approx(row[j] * scale - top);
  // exp_approx saturates instead of reaching zero.
  for (int64_t j = valid; j < kKeys; ++j) weights[j] = 0.0f;
  for (int64_t j = 0; j < kLanes; ++j) lanes[j] = 0.0f;
  for (int64_t i = 0; i < kKeys; i += kLanes) {
    for (int64_t j = 0; j < kLanes; ++j) lanes[j] += weights[i + j];
  }
  float sum = 0.0f;
  for (int64_t j = 0; j < kLanes; ++j) sum += lanes[j];
  return sum;
}

#endif

template <typename T>
static void attend(const Attend<T>& a) {
  using Operand = typename Compute<T>::Operand;
  using Element = typename Operand::Element;
  const int64_t keys = a.keys;
  const int64_t head_dim = a.head_dim;
  const int64_t rows = a.rows;
  const int64_t blocks = (keys + kKeys - 1) / kKeys;
  const auto* packed_k = static_cast<const Element*>(a.packed);
  const Element* packed_v = packed_k + blocks * kKeys * head_dim;

  alignas(64) Element query[kQueries * kAttentionMaxHeadDim];
  alignas(64) float scores[kQueries * kKeys];
  // float32 weights replace their scores.
  alignas(64) Element own_weights[sizeof(Element) == sizeof(float) ? 1 : kQueries * kKeys];
  Element* weights;
  if constexpr (sizeof(Element) == sizeof(float)) {
    weights = scores;
  } else {
    weights = own_weights;
  }
  alignas(64) float result[kQueries * kAttentionMaxHeadDim];
  float maximum[kQueries];
  float sum[kQueries];

  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t d = 0; d < head_dim; ++d) {
      query[r * head_dim + d] = convert<Operand>(a.q[r * a.q_stride + d]);
      result[r * head_dim + d] = 0.0f;
    }
    // Finite, so that the first block's rescale factor e^(maximum - top) is not NaN; what it scales
    // is 0.
    maximum[r] = -1e30f;
    sum[r] = 0.0f;
  }
  for (int64_t block = 0; block < blocks; ++block) {
    multiply<Operand>(query, head_dim, packed_k + block * kKeys * head_dim,
                      kKeys * Operand::kColumn, scores, kKeys, rows, kKeys, head_dim, false);
    const int64_t valid = keys - block * kKeys < kKeys ? keys - block * kKeys : kKeys;
    for (int64_t r = 0; r < rows; ++r) {
      float rescale;
      const float row_sum = softmax_row(scores + r * kKeys, weights + r * kKeys, valid, a.scale,
                                        &maximum[r], &rescale);
      sum[r] = sum[r] * rescale + row_sum;
      if (rescale != 1.0f) {
        float* o = result + r * head_dim;
        for (int64_t d = 0; d < head_dim; ++d) o[d] *= rescale;
      }
    }
    multiply<Operand>(weights, kKeys, packed_v + block * kKeys * head_dim,
                      head_dim * Operand::kColumn, result, head_dim, rows, head_dim, kKeys, true);
  }
  for (int64_t r = 0; r < rows; ++r) {
    const float inverse = 1.0f / sum[r];
    for (int64_t d = 0; d < head_dim; ++d) {
      store(a.out + r * a.out_stride + d, result[r * head_dim + d] * inverse);
    }
  }
}

template <typename T>
AttentionKernels<T> attention_kernels() {
  return {.packed_bytes = packed_bytes<T>, .pack = pack<T>, .attend = attend<T>};
}

template AttentionKernels<float> attention_kernels<float>();
template AttentionKernels<BFloat16Bits> attention_kernels<BFloat16Bits>();

}  // namespace jitflux::kernels::JIT_FLUX_ISA_NAMESPACE
