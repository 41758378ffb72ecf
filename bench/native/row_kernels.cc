#include "row_kernels.h"

#include <algorithm>

#include "flux/activation.h"
#include "runtime/parallel.h"

namespace jitflux::bench {

namespace {

// Calls f with a value of x's element type.
template <typename F>
void with_type_of(const at::Tensor& x, const F& f) {
  if (x.scalar_type() == at::kBFloat16) {
    f(at::BFloat16());
  } else {
    f(float());
  }
}

// Rows that go through two kernels while they are in the cache, as in native/flux/transformer.cc.
constexpr int64_t kStrip = 4;

constexpr int32_t kByteOffset = 128;
constexpr float kByteLevels = 127.0f;

const float* vector(const at::Tensor& t) { return t.const_data_ptr<float>(); }

}  // namespace

void layer_norm_modulate(const at::Tensor& x, const at::Tensor& shift, const at::Tensor& scale,
                         const at::Tensor& out) {
  with_type_of(x, [&](auto zero) {
    using T = decltype(zero);
    const int64_t d = x.size(1);
    const auto* from = const_data<T>(x);
    auto* to = data<T>(out);
    parallel_rows(x.size(0), 4 * d, [&](int64_t begin, int64_t end) {
      jitflux::row_kernels<T>().layer_norm_modulate(from + begin * d, vector(shift), vector(scale),
                                                    to + begin * d, end - begin, d, kNormEps);
    });
  });
}

void gated_residual(const at::Tensor& x, const at::Tensor& y, const at::Tensor& gate) {
  with_type_of(x, [&](auto zero) {
    using T = decltype(zero);
    const int64_t d = x.size(1);
    const auto* from = const_data<T>(y);
    auto* to = data<T>(x);
    parallel_rows(x.size(0), 2 * d, [&](int64_t begin, int64_t end) {
      jitflux::row_kernels<T>().gated_residual(to + begin * d, from + begin * d, {}, vector(gate),
                                               end - begin, d);
    });
  });
}

void gated_residual_layer_norm_modulate(const at::Tensor& x, const at::Tensor& y,
                                        const at::Tensor& gate, const at::Tensor& shift,
                                        const at::Tensor& scale, const at::Tensor& out) {
  with_type_of(x, [&](auto zero) {
    using T = decltype(zero);
    const auto& kernels = jitflux::row_kernels<T>();
    const int64_t d = x.size(1);
    auto* residual = data<T>(x);
    const auto* from = const_data<T>(y);
    auto* to = data<T>(out);
    parallel_rows(x.size(0), 6 * d, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; row += kStrip) {
        const int64_t rows = std::min(kStrip, end - row);
        kernels.gated_residual(residual + row * d, from + row * d, {}, vector(gate), rows, d);
        kernels.layer_norm_modulate(residual + row * d, vector(shift), vector(scale), to + row * d,
                                    rows, d, kNormEps);
      }
    });
  });
}

void qk_norm_rope(const at::Tensor& qkv, const at::Tensor& q_weight, const at::Tensor& k_weight,
                  const at::Tensor& cos, const at::Tensor& sin, const at::Tensor& q,
                  const at::Tensor& k, const at::Tensor& v) {
  with_type_of(qkv, [&](auto zero) {
    using T = decltype(zero);
    const int64_t stride = qkv.size(1);
    const int64_t d = q.size(1);
    const int64_t head_dim = q_weight.size(0);
    const auto* from = const_data<T>(qkv);
    auto* to_q = data<T>(q);
    auto* to_k = data<T>(k);
    auto* to_v = data<T>(v);
    parallel_rows(qkv.size(0), 6 * d, [&](int64_t begin, int64_t end) {
      jitflux::row_kernels<T>().qk_norm_rope(
          from + begin * stride, stride, {}, vector(q_weight), vector(k_weight), vector(cos),
          vector(sin), nullptr, begin, to_q + begin * d, to_k + begin * d, to_v + begin * d,
          end - begin, d / head_dim, head_dim, kNormEps);
    });
  });
}

void gelu_tanh(const at::Tensor& x, const at::Tensor& out) {
  with_type_of(x, [&](auto zero) {
    using T = decltype(zero);
    const int64_t d = x.size(1);
    const auto* from = const_data<T>(x);
    auto* to = data<T>(out);
    parallel_rows(x.size(0), 4 * d, [&](int64_t begin, int64_t end) {
      jitflux::row_kernels<T>().gelu_tanh(from + begin * d, d, {}, to + begin * d, d, end - begin,
                                          d);
    });
  });
}

void quantize_rows(const at::Tensor& x, const at::Tensor& bytes, const at::Tensor& row_scale) {
  with_type_of(x, [&](auto zero) {
    using T = decltype(zero);
    const int64_t d = x.size(1);
    const auto* from = const_data<T>(x);
    auto* to = bytes.mutable_data_ptr<uint8_t>();
    auto* scales = row_scale.mutable_data_ptr<float>();
    parallel_rows(x.size(0), 2 * d, [&](int64_t begin, int64_t end) {
      jitflux::row_kernels<T>().quantize_rows(from + begin * d, d, to + begin * d, scales + begin,
                                              end - begin, d, kByteOffset, kByteLevels);
    });
  });
}

void gather_embed(const at::Tensor& latents, const std::vector<int32_t>& positions,
                  const LatentEmbedder& embedder, const at::Tensor& out) {
  with_type_of(out, [&](auto zero) {
    using T = decltype(zero);
    const int64_t channels = latents.size(1);
    const int64_t d = out.size(1);
    auto* to = data<T>(out);
    parallel_rows(out.size(0), channels * d / 16, [&](int64_t begin, int64_t end) {
      jitflux::row_kernels<T>().gather_embed(vector(latents), positions.data(), begin,
                                             vector(embedder.weight), vector(embedder.bias),
                                             to + begin * d, end - begin, channels, d);
    });
  });
}

void scale_shift_silu(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift,
                      const at::Tensor& out) {
  with_type_of(x, [&](auto zero) {
    using T = decltype(zero);
    const int64_t d = x.size(1);
    const auto* from = const_data<T>(x);
    auto* to = data<T>(out);
    parallel_rows(x.size(0), 4 * d, [&](int64_t begin, int64_t end) {
      jitflux::row_kernels<T>().scale_shift_silu(from + begin * d, vector(scale), vector(shift),
                                                 to + begin * d, end - begin, d);
    });
  });
}

}  // namespace jitflux::bench
