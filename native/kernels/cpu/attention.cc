// Flash attention of one head: softmax(scale q k^T) v, blockwise with a running maximum, nothing of
// size S x S. K and V are packed once per layer into the order in which the tiles read them.
#include "kernels/cpu/softmax.h"
#include "kernels/cpu/tables.h"
#include "kernels/cpu/tile.h"

namespace jitflux::kernels::JIT_FLUX_ISA_NAMESPACE {

static constexpr int64_t kKeys = 64;     // keys of one block
static constexpr int64_t kQueries = 96;  // that share a pass over the keys

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
  RunningSoftmax softmax[kQueries];

  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t d = 0; d < head_dim; ++d) {
      query[r * head_dim + d] = convert<Operand>(a.q[r * a.q_stride + d]);
      result[r * head_dim + d] = 0.0f;
    }
  }
  for (int64_t block = 0; block < blocks; ++block) {
    multiply<Operand>(query, head_dim, packed_k + block * kKeys * head_dim,
                      kKeys * Operand::kColumn, scores, kKeys, rows, kKeys, head_dim, false);
    const int64_t valid = keys - block * kKeys < kKeys ? keys - block * kKeys : kKeys;
    for (int64_t r = 0; r < rows; ++r) {
      softmax[r].take<kKeys>(scores + r * kKeys, weights + r * kKeys, valid, a.scale,
                             result + r * head_dim, head_dim);
    }
    multiply<Operand>(weights, kKeys, packed_v + block * kKeys * head_dim,
                      head_dim * Operand::kColumn, result, head_dim, rows, head_dim, kKeys, true);
  }
  for (int64_t r = 0; r < rows; ++r) {
    softmax[r].finish(result + r * head_dim, head_dim, a.out + r * a.out_stride);
  }
}

template <typename T>
AttentionKernels<T> attention_kernels() {
  return {
      .packed_bytes = packed_bytes<T>, .pack = pack<T>, .attend = attend<T>, .queries = kQueries};
}

template AttentionKernels<float> attention_kernels<float>();
#if !JIT_FLUX_AMX
template AttentionKernels<BFloat16Bits> attention_kernels<BFloat16Bits>();
#endif

}  // namespace jitflux::kernels::JIT_FLUX_ISA_NAMESPACE
