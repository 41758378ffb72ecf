// Flash attention of one head: softmax(scale q k^T) v, blockwise with a running maximum, nothing of
// size S x S. K and V are packed once per layer into the order in which the tiles read them.
#include <cmath>

#include "kernels/cpu/tables.h"
#include "kernels/cpu/tile.h"

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

// Scales the row by `scale`, replaces it by e^(s - maximum) and returns its sum. Raises `maximum`
// to the row's if that is larger and sets `rescale` to e^(old - new).
static float softmax_row(float* s, float scale, float* maximum, float* rescale) {
  constexpr int64_t kLanes = 16;
  float lanes[kLanes];
  for (int64_t j = 0; j < kLanes; ++j) lanes[j] = s[j];
  for (int64_t i = kLanes; i < kKeys; i += kLanes) {
    for (int64_t j = 0; j < kLanes; ++j) lanes[j] = s[i + j] > lanes[j] ? s[i + j] : lanes[j];
  }
  float highest = lanes[0];
  for (int64_t j = 1; j < kLanes; ++j) highest = lanes[j] > highest ? lanes[j] : highest;
  highest *= scale;  // scale > 0
  const float top = highest > *maximum ? highest : *maximum;
  *rescale = exp_approx(*maximum - top);
  *maximum = top;
  for (int64_t j = 0; j < kLanes; ++j) lanes[j] = 0.0f;
  for (int64_t i = 0; i < kKeys; i += kLanes) {
    for (int64_t j = 0; j < kLanes; ++j) {
      s[i + j] = exp_approx(s[i + j] * scale - top);
      lanes[j] += s[i + j];
    }
  }
  float sum = 0.0f;
  for (int64_t j = 0; j < kLanes; ++j) sum += lanes[j];
  return sum;
}

// The scores as the left operand of the product with the values.
static const float* as_operand(const float* scores, float*, int64_t) { return scores; }
#if defined(__AVX512BF16__)
static const uint16_t* as_operand(const float* scores, uint16_t* out, int64_t count) {
  for (int64_t i = 0; i < count; i += kWidth) {
    const __m256bh half = _mm512_cvtneps_pbh(_mm512_loadu_ps(scores + i));
    std::memcpy(out + i, &half, sizeof half);
  }
  return out;
}
#endif

template <typename T>
static void attend(const T* q, int64_t q_stride, const void* packed, int64_t keys, int64_t head_dim,
                   float scale, T* out, int64_t out_stride, int64_t rows) {
  using Operand = typename Compute<T>::Operand;
  using Element = typename Operand::Element;
  const int64_t blocks = (keys + kKeys - 1) / kKeys;
  const auto* packed_k = static_cast<const Element*>(packed);
  const Element* packed_v = packed_k + blocks * kKeys * head_dim;

  alignas(64) Element query[kQueries * kAttentionMaxHeadDim];
  alignas(64) float scores[kQueries * kKeys];
  alignas(64) Element weights[kQueries * kKeys];
  alignas(64) float result[kQueries * kAttentionMaxHeadDim];
  float maximum[kQueries];
  float sum[kQueries];

  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t d = 0; d < head_dim; ++d) {
      query[r * head_dim + d] = convert<Operand>(q[r * q_stride + d]);
      result[r * head_dim + d] = 0.0f;
    }
    // Finite, so that the first block's rescale factor e^(maximum - top) is 0 and not NaN.
    maximum[r] = -1e30f;
    sum[r] = 0.0f;
  }
  for (int64_t block = 0; block < blocks; ++block) {
    multiply<Operand>(query, head_dim, packed_k + block * kKeys * head_dim,
                      kKeys * Operand::kColumn, scores, kKeys, rows, kKeys, head_dim, false);
    const int64_t valid = keys - block * kKeys < kKeys ? keys - block * kKeys : kKeys;
    for (int64_t r = 0; r < rows; ++r) {
      float* row = scores + r * kKeys;
      for (int64_t j = valid; j < kKeys; ++j) row[j] = -1e30f;
      float rescale;
      const float row_sum = softmax_row(row, scale, &maximum[r], &rescale);
      // exp_approx saturates instead of reaching zero: what lies beyond the sequence must be zero.
      float excess = 0.0f;
      for (int64_t j = valid; j < kKeys; ++j) {
        excess += row[j];
        row[j] = 0.0f;
      }
      sum[r] = sum[r] * rescale + (row_sum - excess);
      if (rescale != 1.0f) {
        float* o = result + r * head_dim;
        for (int64_t d = 0; d < head_dim; ++d) o[d] *= rescale;
      }
    }
    multiply<Operand>(as_operand(scores, weights, rows * kKeys), kKeys,
                      packed_v + block * kKeys * head_dim, head_dim * Operand::kColumn, result,
                      head_dim, rows, head_dim, kKeys, true);
  }
  for (int64_t r = 0; r < rows; ++r) {
    const float inverse = 1.0f / sum[r];
    for (int64_t d = 0; d < head_dim; ++d) {
      store(out + r * out_stride + d, result[r * head_dim + d] * inverse);
    }
  }
}

template <typename T>
AttentionKernels<T> attention_kernels() {
  return {packed_bytes<T>, pack<T>, attend<T>};
}

template AttentionKernels<float> attention_kernels<float>();
template AttentionKernels<BFloat16Bits> attention_kernels<BFloat16Bits>();

}  // namespace jitflux::kernels::JIT_FLUX_ISA_NAMESPACE
