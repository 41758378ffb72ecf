// FLUX's memory-bound glue on the CPU: adaLN, gated residual, q/k RMSNorm + RoPE, GELU,
// quantisation, the latents' embedding; T5's RMSNorm and the autoencoder's group norm.
#include <cmath>

#include "kernels/cpu/tables.h"
#include "kernels/cpu/tile.h"
#include "kernels/cpu/vector_math.h"

namespace jitflux::kernels::JIT_FLUX_ISA_NAMESPACE {

// Reductions keep this many vectors of partial sums: a fixed association, and enough of them to
// hide the additions' latency.
static constexpr int64_t kPartials = 4;

// f(first column, count) of every vector of a row, summed.
template <typename F>
static inline float row_reduce(int64_t d, const F& f) {
  Vector partial[kPartials] = {};
  int64_t i = 0;
  for (; i + kPartials * kWidth <= d; i += kPartials * kWidth) {
#pragma GCC unroll 4
    for (int64_t j = 0; j < kPartials; ++j) partial[j] += f(i + j * kWidth, kWidth);
  }
  for (; i + kWidth <= d; i += kWidth) partial[0] += f(i, kWidth);
  if (i < d) partial[0] += f(i, d - i);
  return sum_of((partial[0] + partial[1]) + (partial[2] + partial[3]));
}

template <typename T>
static inline float row_sum(const T* x, int64_t d) {
  return row_reduce(d, [=](int64_t i, int64_t n) { return load_part(x + i, n); });
}

template <typename T>
static inline float row_square_sum(const T* x, int64_t d) {
  return row_reduce(d, [=](int64_t i, int64_t n) {
    const Vector value = load_part(x + i, n);
    return value * value;
  });
}

// Columns from `i` on of y * scale + bias or, without a scale, of y.
template <bool Rescaled, typename T>
static inline Vector load_rescaled(const T* y, const float* bias, float scale, int64_t i,
                                   int64_t count) {
  const Vector value = load_part(y + i, count);
  if constexpr (!Rescaled) return value;
  return value * scale + load_part(bias + i, count);
}

template <typename T>
static void layer_norm_modulate(const T* x, const float* shift, const float* scale, T* out,
                                int64_t rows, int64_t d, float eps) {
  for (int64_t r = 0; r < rows; ++r, x += d, out += d) {
    const float mean = row_sum(x, d) / static_cast<float>(d);
    const float square_sum = row_reduce(d, [=](int64_t i, int64_t n) {
      Vector delta = load_part(x + i, n) - mean;
      for (int64_t j = n; j < kWidth; ++j) delta[j] = 0.0f;  // beyond the row
      return delta * delta;
    });
    const float inverse = 1.0f / std::sqrt(square_sum / static_cast<float>(d) + eps);
    for_columns(d, [=](int64_t i, int64_t n) {
      const Vector normed = (load_part(x + i, n) - mean) * inverse;
      store_part(out + i, n, normed * (1.0f + load_part(scale + i, n)) + load_part(shift + i, n));
    });
  }
}

template <bool Rescaled, typename T>
static void gated_residual_rows(T* x, const T* y, Rescale rescale, const float* gate, int64_t rows,
                                int64_t d) {
  for (int64_t r = 0; r < rows; ++r, x += d, y += d) {
    const float scale = Rescaled ? rescale.row_scale[r] : 1.0f;
    for_columns(d, [=](int64_t i, int64_t n) {
      const Vector added = load_rescaled<Rescaled>(y, rescale.bias, scale, i, n);
      store_part(x + i, n, load_part(x + i, n) + load_part(gate + i, n) * added);
    });
  }
}

template <typename T>
static void gated_residual(T* x, const T* y, Rescale rescale, const float* gate, int64_t rows,
                           int64_t d) {
  if (rescale.row_scale == nullptr) {
    gated_residual_rows<false>(x, y, rescale, gate, rows, d);
  } else {
    gated_residual_rows<true>(x, y, rescale, gate, rows, d);
  }
}

// (a, b) -> (b, a) for neighbouring lanes.
static inline Vector swap_pairs(Vector v) {
#if defined(__AVX512F__)
  return __builtin_shuffle(v, IntVector{1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14});
#elif defined(__AVX2__)
  return __builtin_shuffle(v, IntVector{1, 0, 3, 2, 5, 4, 7, 6});
#else
  return __builtin_shuffle(v, IntVector{1, 0, 3, 2});
#endif
}

template <typename S, typename T>
static inline void norm_rope_head(const S* src, const float* weight, const float* cos,
                                  const float* sin, T* dst, int64_t head_dim, float eps) {
  const float mean_square = row_square_sum(src, head_dim) / static_cast<float>(head_dim);
  const float inverse = 1.0f / std::sqrt(mean_square + eps);
  if (cos == nullptr) {
    for_columns(head_dim, [=](int64_t i, int64_t n) {
      store_part(dst + i, n, load_part(src + i, n) * inverse * load_part(weight + i, n));
    });
    return;
  }
  for_columns(head_dim, [=](int64_t i, int64_t n) {
    const Vector normed = load_part(src + i, n) * inverse * load_part(weight + i, n);
    store_part(dst + i, n,
               normed * load_part(cos + i, n) + swap_pairs(normed) * load_part(sin + i, n));
  });
}

template <bool Rescaled, typename T>
static void qk_norm_rope_rows(const QkNormRope<T>& a) {
  const int64_t head_dim = a.head_dim;
  const int64_t width = a.heads * head_dim;
  const float eps = a.eps;
  const T* qkv = a.qkv;
  T* q = a.q;
  T* k = a.k;
  T* v = a.v;
  float head[kRescaledMaxHeadDim];
  for (int64_t r = 0; r < a.rows; ++r, qkv += a.qkv_stride, q += width, k += width, v += width) {
    const int64_t row = a.first_row + r;
    const int64_t position = a.positions == nullptr ? row : a.positions[row];
    const float* row_cos = a.cos == nullptr ? nullptr : a.cos + position * head_dim;
    const float* row_sin = a.sin == nullptr ? nullptr : a.sin + position * head_dim;
    const float scale = Rescaled ? a.rescale.row_scale[r] : 1.0f;
    // One head of q or k, `column` columns into the row.
    const auto normed_head = [&](int64_t column, const float* weight, T* out) {
      if constexpr (Rescaled) {
        for_columns(head_dim, [&](int64_t i, int64_t n) {
          store_part(head + i, n, load_rescaled<true>(qkv, a.rescale.bias, scale, column + i, n));
        });
        norm_rope_head(head, weight, row_cos, row_sin, out, head_dim, eps);
      } else {
        norm_rope_head(qkv + column, weight, row_cos, row_sin, out, head_dim, eps);
      }
    };
    for (int64_t at = 0; at < width; at += head_dim) {
      normed_head(at, a.q_weight, q + at);
      normed_head(width + at, a.k_weight, k + at);
    }
    if constexpr (Rescaled) {
      const float* bias = a.rescale.bias;
      for_columns(width, [=](int64_t i, int64_t n) {
        store_part(v + i, n, load_rescaled<true>(qkv, bias, scale, 2 * width + i, n));
      });
    } else {
      std::memcpy(v, qkv + 2 * width, static_cast<size_t>(width) * sizeof(T));
    }
  }
}

template <typename T>
static void qk_norm_rope(const QkNormRope<T>& arguments) {
  if (arguments.rescale.row_scale == nullptr) {
    qk_norm_rope_rows<false>(arguments);
  } else {
    qk_norm_rope_rows<true>(arguments);
  }
}

static inline Vector gelu_tanh_of(Vector x) {
  // 0.5 x (1 + tanh(u)) = x / (1 + e^(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3)
  constexpr float kMinusTwoRootTwoOverPi = -1.5957691216057308f;
  const Vector inner = x + 0.044715f * x * x * x;
  return x / (1.0f + exp_vector(kMinusTwoRootTwoOverPi * inner));
}

template <bool Rescaled, typename T>
static void gelu_tanh_rows(const T* src, int64_t src_stride, Rescale rescale, T* dst,
                           int64_t dst_stride, int64_t rows, int64_t d) {
  for (int64_t r = 0; r < rows; ++r, src += src_stride, dst += dst_stride) {
    const float scale = Rescaled ? rescale.row_scale[r] : 1.0f;
    for_columns(d, [=](int64_t i, int64_t n) {
      const Vector x = load_rescaled<Rescaled>(src, rescale.bias, scale, i, n);
      store_part(dst + i, n, gelu_tanh_of(x));
    });
  }
}

template <typename T>
static void gelu_tanh(const T* src, int64_t src_stride, Rescale rescale, T* dst, int64_t dst_stride,
                      int64_t rows, int64_t d) {
  const auto run =
      rescale.row_scale == nullptr ? gelu_tanh_rows<false, T> : gelu_tanh_rows<true, T>;
  run(src, src_stride, rescale, dst, dst_stride, rows, d);
}

static inline Vector max_vector(Vector a, Vector b) { return a > b ? a : b; }

template <typename T>
static void quantize_rows(const T* x, int64_t x_stride, uint8_t* q, float* scale, int64_t rows,
                          int64_t d, int32_t offset, float levels) {
  // Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits.
  constexpr float kMagic = 12582912.0f;
  for (int64_t r = 0; r < rows; ++r, x += x_stride, q += d) {
    Vector partial[kPartials] = {};
    Vector poison = {};  // NaN as soon as a value is NaN or infinite; a maximum would lose it
    int64_t at = 0;
    const auto magnitude = [&](int64_t i, int64_t n) {
      const Vector value = load_part(x + i, n);
      poison += value * 0.0f;
      return max_vector(value, -value);
    };
    for (; at + kPartials * kWidth <= d; at += kPartials * kWidth) {
#pragma GCC unroll 4
      for (int64_t j = 0; j < kPartials; ++j) {
        partial[j] = max_vector(magnitude(at + j * kWidth, kWidth), partial[j]);
      }
    }
    for (; at < d; at += kWidth) {
      partial[0] = max_vector(magnitude(at, d - at < kWidth ? d - at : kWidth), partial[0]);
    }
    const float highest =
        max_of(max_vector(max_vector(partial[0], partial[1]), max_vector(partial[2], partial[3])));
    // Rows of (nearly) nothing: zero, instead of a reciprocal that overflows.
    const bool empty = !(highest > 1e-30f);
    scale[r] = (empty ? 0.0f : highest / levels) + sum_of(poison);
    const float inverse = empty ? 0.0f : levels / highest;
    for_columns(d, [=](int64_t i, int64_t n) {
      const auto bits = bit_cast<UintVector>(load_part(x + i, n) * inverse + kMagic);
      const UintVector bytes = bits + static_cast<uint32_t>(offset);
      if (n == kWidth) {
        store_bytes(q + i, bytes);
      } else {
        uint8_t part[kWidth];
        store_bytes(part, bytes);
        std::memcpy(q + i, part, static_cast<size_t>(n));
      }
    });
  }
}

template <typename T>
static void gather_embed(const GatherEmbed<T>& a) {
  constexpr int64_t kRows = 8 * kTileRows;
  constexpr int64_t kColumns = kEmbedColumns;
  const int64_t channels = a.channels;
  const float* bias = a.bias;
  float tokens[kRows * kEmbedMaxChannels];
  float product[kRows * kColumns];
  for (int64_t begin = 0; begin < a.rows; begin += kRows) {
    const int64_t count = a.rows - begin < kRows ? a.rows - begin : kRows;
    for (int64_t r = 0; r < count; ++r) {
      const int64_t row = a.first_row + begin + r;
      const float* src = a.latents + (a.positions == nullptr ? row : a.positions[row]) * channels;
      for (int64_t i = 0; i < channels; ++i) {
        T rounded;
        store(&rounded, src[i]);
        tokens[r * channels + i] = load(rounded);
      }
    }
    for (int64_t column = 0; column < a.d; column += kColumns) {
      const int64_t width = a.d - column < kColumns ? a.d - column : kColumns;
      multiply<Float32Operand>(tokens, channels, a.weight + column * channels, kColumns, product,
                               kColumns, count, kColumns, channels, false);
      for (int64_t r = 0; r < count; ++r) {
        T* dst = a.out + (begin + r) * a.d + column;
        const float* sum = product + r * kColumns;
        for_columns(width, [=](int64_t i, int64_t n) {
          store_part(dst + i, n, load_part(sum + i, n) + load_part(bias + column + i, n));
        });
      }
    }
  }
}

template <typename T>
static void rms_norm(const float* x, const float* weight, T* out, int64_t rows, int64_t d,
                     float eps) {
  for (int64_t r = 0; r < rows; ++r, x += d, out += d) {
    const float mean_square = row_square_sum(x, d) / static_cast<float>(d);
    const float inverse = 1.0f / std::sqrt(mean_square + eps);
    for_columns(d, [=](int64_t i, int64_t n) {
      store_part(out + i, n, load_part(x + i, n) * inverse * load_part(weight + i, n));
    });
  }
}

// Rows of y without a bias, scaled or as they are.
static inline float scale_of(Rescale rescale, int64_t row) {
  return rescale.row_scale == nullptr ? 1.0f : rescale.row_scale[row];
}

template <typename T>
static void add_rows(float* x, const T* y, Rescale rescale, int64_t rows, int64_t d) {
  for (int64_t r = 0; r < rows; ++r, x += d, y += d) {
    const float scale = scale_of(rescale, r);
    for_columns(d, [=](int64_t i, int64_t n) {
      store_part(x + i, n, load_part(x + i, n) + load_part(y + i, n) * scale);
    });
  }
}

template <typename T>
static void rescale_rows(T* y, Rescale rescale, int64_t rows, int64_t d) {
  for (int64_t r = 0; r < rows; ++r, y += d) {
    const float scale = scale_of(rescale, r);
    for_columns(d,
                [=](int64_t i, int64_t n) { store_part(y + i, n, load_part(y + i, n) * scale); });
  }
}

template <typename T>
static void gated_gelu(T* gate, const T* up, Rescale rescale, int64_t rows, int64_t d) {
  for (int64_t r = 0; r < rows; ++r, gate += d, up += d) {
    const float scale = scale_of(rescale, r);
    for_columns(d, [=](int64_t i, int64_t n) {
      const Vector gated = gelu_tanh_of(load_part(gate + i, n) * scale);
      store_part(gate + i, n, gated * (load_part(up + i, n) * scale));
    });
  }
}

template <typename T>
static void column_moments(const T* x, int64_t rows, int64_t d, float* mean, float* square_sum) {
  std::memset(mean, 0, static_cast<size_t>(d) * sizeof(float));
  std::memset(square_sum, 0, static_cast<size_t>(d) * sizeof(float));
  for (int64_t r = 0; r < rows; ++r) {
    const T* row = x + r * d;
    for_columns(d, [=](int64_t i, int64_t n) {
      store_part(mean + i, n, load_part(mean + i, n) + load_part(row + i, n));
    });
  }
  const float inverse = 1.0f / static_cast<float>(rows);
  for (int64_t i = 0; i < d; ++i) mean[i] *= inverse;
  for (int64_t r = 0; r < rows; ++r) {
    const T* row = x + r * d;
    for_columns(d, [=](int64_t i, int64_t n) {
      const Vector delta = load_part(row + i, n) - load_part(mean + i, n);
      store_part(square_sum + i, n, load_part(square_sum + i, n) + delta * delta);
    });
  }
}

template <typename T>
static void scale_shift_silu(const T* x, const float* scale, const float* shift, T* out,
                             int64_t rows, int64_t d) {
  for (int64_t r = 0; r < rows; ++r, x += d, out += d) {
    for_columns(d, [=](int64_t i, int64_t n) {
      const Vector y = load_part(x + i, n) * load_part(scale + i, n) + load_part(shift + i, n);
      store_part(out + i, n, y / (1.0f + exp_vector(-y)));
    });
  }
}

template <typename T>
RowKernels<T> row_kernels() {
  return {
      .layer_norm_modulate = layer_norm_modulate<T>,
      .gated_residual = gated_residual<T>,
      .qk_norm_rope = qk_norm_rope<T>,
      .gelu_tanh = gelu_tanh<T>,
      .quantize_rows = quantize_rows<T>,
      .gather_embed = gather_embed<T>,
      .rms_norm = rms_norm<T>,
      .add_rows = add_rows<T>,
      .rescale_rows = rescale_rows<T>,
      .gated_gelu = gated_gelu<T>,
      .column_moments = column_moments<T>,
      .scale_shift_silu = scale_shift_silu<T>,
  };
}

template RowKernels<float> row_kernels<float>();
template RowKernels<BFloat16Bits> row_kernels<BFloat16Bits>();

}  // namespace jitflux::kernels::JIT_FLUX_ISA_NAMESPACE
