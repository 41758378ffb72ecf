// FLUX's memory-bound glue on the CPU: adaLN, gated residual, q/k RMSNorm + RoPE, GELU.
#include <cmath>

#include "kernels/cpu/tables.h"
#include "kernels/cpu/tile.h"
#include "kernels/cpu/vector_math.h"

namespace jitflux::kernels::JIT_FLUX_ISA_NAMESPACE {

// Reductions keep this many partial sums: a fixed association, so that every vector width the
// compiler chooses gives the same order per build, and enough of them to fill an AVX-512 register.
static constexpr int64_t kLanes = 16;

template <typename T>
static float row_sum(const T* x, int64_t d) {
  float partial[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= d; i += kLanes) {
    for (int64_t j = 0; j < kLanes; ++j) partial[j] += load(x[i + j]);
  }
  for (int64_t j = 0; i + j < d; ++j) partial[j] += load(x[i + j]);
  float sum = 0.0f;
  for (int64_t j = 0; j < kLanes; ++j) sum += partial[j];
  return sum;
}

// Sum of (x - mean)^2.
template <typename T>
static float row_square_sum(const T* x, float mean, int64_t d) {
  float partial[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= d; i += kLanes) {
    for (int64_t j = 0; j < kLanes; ++j) {
      const float delta = load(x[i + j]) - mean;
      partial[j] += delta * delta;
    }
  }
  for (int64_t j = 0; i + j < d; ++j) {
    const float delta = load(x[i + j]) - mean;
    partial[j] += delta * delta;
  }
  float sum = 0.0f;
  for (int64_t j = 0; j < kLanes; ++j) sum += partial[j];
  return sum;
}

template <typename T>
static void layer_norm_modulate(const T* x, const float* shift, const float* scale, T* out,
                                int64_t rows, int64_t d, float eps) {
  for (int64_t r = 0; r < rows; ++r, x += d, out += d) {
    const float mean = row_sum(x, d) / static_cast<float>(d);
    const float variance = row_square_sum(x, mean, d) / static_cast<float>(d);
    const float inverse = 1.0f / std::sqrt(variance + eps);
    for (int64_t i = 0; i < d; ++i) {
      store(out + i, (load(x[i]) - mean) * inverse * (1.0f + scale[i]) + shift[i]);
    }
  }
}

template <typename T>
static void gated_residual(T* x, const T* y, Rescale rescale, const float* gate, int64_t rows,
                           int64_t d) {
  const float* bias = rescale.bias;
  for (int64_t r = 0; r < rows; ++r, x += d, y += d) {
    if (rescale.row_scale == nullptr) {
      for (int64_t i = 0; i < d; ++i) store(x + i, load(x[i]) + gate[i] * load(y[i]));
    } else {
      const float scale = rescale.row_scale[r];
      for (int64_t i = 0; i < d; ++i) {
        store(x + i, load(x[i]) + gate[i] * (load(y[i]) * scale + bias[i]));
      }
    }
  }
}

template <typename S, typename T>
static void norm_rope_head(const S* src, const float* weight, const float* cos, const float* sin,
                           T* dst, int64_t head_dim, float eps) {
  const float mean_square = row_square_sum(src, 0.0f, head_dim) / static_cast<float>(head_dim);
  const float inverse = 1.0f / std::sqrt(mean_square + eps);
  if (cos == nullptr) {
    for (int64_t i = 0; i < head_dim; ++i) store(dst + i, load(src[i]) * inverse * weight[i]);
    return;
  }
  for (int64_t p = 0; p < head_dim / 2; ++p) {
    const float a = load(src[2 * p]) * inverse * weight[2 * p];
    const float b = load(src[2 * p + 1]) * inverse * weight[2 * p + 1];
    store(dst + 2 * p, a * cos[p] - b * sin[p]);
    store(dst + 2 * p + 1, b * cos[p] + a * sin[p]);
  }
}

template <typename T>
static void qk_norm_rope(const T* qkv, int64_t qkv_stride, Rescale rescale, const float* q_weight,
                         const float* k_weight, const float* cos, const float* sin,
                         const int32_t* positions, int64_t first_row, T* q, T* k, T* v,
                         int64_t rows, int64_t heads, int64_t head_dim, float eps) {
  const int64_t width = heads * head_dim;
  const int64_t half = head_dim / 2;
  const float* bias = rescale.bias;
  for (int64_t r = 0; r < rows; ++r, qkv += qkv_stride, q += width, k += width, v += width) {
    const int64_t position = positions == nullptr ? first_row + r : positions[first_row + r];
    const float* row_cos = cos == nullptr ? nullptr : cos + position * half;
    const float* row_sin = sin == nullptr ? nullptr : sin + position * half;
    if (rescale.row_scale == nullptr) {
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t at = h * head_dim;
        norm_rope_head(qkv + at, q_weight, row_cos, row_sin, q + at, head_dim, eps);
        norm_rope_head(qkv + width + at, k_weight, row_cos, row_sin, k + at, head_dim, eps);
      }
      std::memcpy(v, qkv + 2 * width, static_cast<size_t>(width) * sizeof(T));
      continue;
    }
    const float scale = rescale.row_scale[r];
    float head[kRescaledMaxHeadDim];
    for (int64_t at = 0; at < width; at += head_dim) {
      for (int64_t i = 0; i < head_dim; ++i) head[i] = load(qkv[at + i]) * scale + bias[at + i];
      norm_rope_head(head, q_weight, row_cos, row_sin, q + at, head_dim, eps);
      const int64_t key = width + at;
      for (int64_t i = 0; i < head_dim; ++i) head[i] = load(qkv[key + i]) * scale + bias[key + i];
      norm_rope_head(head, k_weight, row_cos, row_sin, k + at, head_dim, eps);
    }
    for (int64_t i = 0; i < width; ++i) {
      store(v + i, load(qkv[2 * width + i]) * scale + bias[2 * width + i]);
    }
  }
}

static inline float gelu_tanh_of(float x) {
  // 0.5 x (1 + tanh(u)) = x / (1 + e^(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3)
  constexpr float kMinusTwoRootTwoOverPi = -1.5957691216057308f;
  const float inner = x + 0.044715f * x * x * x;
  return x / (1.0f + exp_approx(kMinusTwoRootTwoOverPi * inner));
}

template <typename T>
static void gelu_tanh(const T* src, int64_t src_stride, Rescale rescale, T* dst, int64_t dst_stride,
                      int64_t rows, int64_t d) {
  const float* bias = rescale.bias;
  for (int64_t r = 0; r < rows; ++r, src += src_stride, dst += dst_stride) {
    if (rescale.row_scale == nullptr) {
      for (int64_t i = 0; i < d; ++i) store(dst + i, gelu_tanh_of(load(src[i])));
    } else {
      const float scale = rescale.row_scale[r];
      for (int64_t i = 0; i < d; ++i) {
        store(dst + i, gelu_tanh_of(load(src[i]) * scale + bias[i]));
      }
    }
  }
}

template <typename T>
static void quantize_rows(const T* x, int64_t x_stride, uint8_t* q, float* scale, int64_t rows,
                          int64_t d, int32_t offset) {
  // Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits.
  constexpr float kMagic = 12582912.0f;
  for (int64_t r = 0; r < rows; ++r, x += x_stride, q += d) {
    float lanes[kLanes] = {};
    int64_t i = 0;
    for (; i + kLanes <= d; i += kLanes) {
      for (int64_t j = 0; j < kLanes; ++j) {
        const float magnitude = std::fabs(load(x[i + j]));
        lanes[j] = magnitude > lanes[j] ? magnitude : lanes[j];
      }
    }
    float highest = 0.0f;
    for (int64_t j = 0; i + j < d; ++j) {
      const float magnitude = std::fabs(load(x[i + j]));
      highest = magnitude > highest ? magnitude : highest;
    }
    for (int64_t j = 0; j < kLanes; ++j) highest = lanes[j] > highest ? lanes[j] : highest;
    // Rows of (nearly) nothing: zero, instead of a reciprocal that overflows.
    const bool empty = !(highest > 1e-30f);
    scale[r] = empty ? 0.0f : highest / 127.0f;
    const float inverse = empty ? 0.0f : 127.0f / highest;
    for (int64_t k = 0; k < d; ++k) {
      const uint32_t bits = float_to_bits(load(x[k]) * inverse + kMagic);
      q[k] = static_cast<uint8_t>(bits + static_cast<uint32_t>(offset));
    }
  }
}

template <typename T>
static void gather_embed(const float* latents, const int32_t* positions, int64_t first_row,
                         const float* weight, const float* bias, T* out, int64_t rows,
                         int64_t channels, int64_t d) {
  constexpr int64_t kRows = 8 * kTileRows;
  constexpr int64_t kColumns = 64;
  const int64_t padded = (d + kEmbedMultiple - 1) / kEmbedMultiple * kEmbedMultiple;
  float tokens[kRows * kEmbedMaxChannels];
  float product[kRows * kColumns];
  for (int64_t begin = 0; begin < rows; begin += kRows) {
    const int64_t count = rows - begin < kRows ? rows - begin : kRows;
    for (int64_t r = 0; r < count; ++r) {
      const int64_t row = first_row + begin + r;
      const float* src = latents + (positions == nullptr ? row : positions[row]) * channels;
      for (int64_t i = 0; i < channels; ++i) {
        T rounded;
        store(&rounded, src[i]);
        tokens[r * channels + i] = load(rounded);
      }
    }
    for (int64_t column = 0; column < d; column += kColumns) {
      const int64_t width = d - column < kColumns ? d - column : kColumns;
      const int64_t padded_width = padded - column < kColumns ? padded - column : kColumns;
      multiply<Float32Operand>(tokens, channels, weight + column, padded, product, kColumns, count,
                               padded_width, channels, false);
      for (int64_t r = 0; r < count; ++r) {
        T* dst = out + (begin + r) * d + column;
        for (int64_t i = 0; i < width; ++i) {
          store(dst + i, product[r * kColumns + i] + bias[column + i]);
        }
      }
    }
  }
}

template <typename T>
static void rms_norm(const float* x, const float* weight, T* out, int64_t rows, int64_t d,
                     float eps) {
  for (int64_t r = 0; r < rows; ++r, x += d, out += d) {
    const float mean_square = row_square_sum(x, 0.0f, d) / static_cast<float>(d);
    const float inverse = 1.0f / std::sqrt(mean_square + eps);
    for (int64_t i = 0; i < d; ++i) store(out + i, x[i] * inverse * weight[i]);
  }
}

template <typename T>
static void column_moments(const T* x, int64_t rows, int64_t d, float* mean, float* square_sum) {
  std::memset(mean, 0, static_cast<size_t>(d) * sizeof(float));
  std::memset(square_sum, 0, static_cast<size_t>(d) * sizeof(float));
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < d; ++i) mean[i] += load(x[r * d + i]);
  }
  const float inverse = 1.0f / static_cast<float>(rows);
  for (int64_t i = 0; i < d; ++i) mean[i] *= inverse;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < d; ++i) {
      const float delta = load(x[r * d + i]) - mean[i];
      square_sum[i] += delta * delta;
    }
  }
}

template <typename T>
static void scale_shift_silu(const T* x, const float* scale, const float* shift, T* out,
                             int64_t rows, int64_t d) {
  for (int64_t r = 0; r < rows; ++r, x += d, out += d) {
    for (int64_t i = 0; i < d; ++i) {
      const float y = load(x[i]) * scale[i] + shift[i];
      store(out + i, y / (1.0f + exp_approx(-y)));
    }
  }
}

template <typename T>
RowKernels<T> row_kernels() {
  return {layer_norm_modulate<T>, gated_residual<T>, qk_norm_rope<T>, gelu_tanh<T>,
          quantize_rows<T>,       gather_embed<T>,   rms_norm<T>,     column_moments<T>,
          scale_shift_silu<T>};
}

template RowKernels<float> row_kernels<float>();
template RowKernels<BFloat16Bits> row_kernels<BFloat16Bits>();

}  // namespace jitflux::kernels::JIT_FLUX_ISA_NAMESPACE
