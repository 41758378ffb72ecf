// JiT operators on one image's grid: separable blur of the nearest-anchor field, scatter, Euler,
// and the local variance that ranks tokens.
#include "kernels/cpu/tables.h"
#include "kernels/reflect.h"

namespace jitflux::kernels::JIT_FLUX_ISA_NAMESPACE {

static void blur_row(const float* v, const int32_t* nearest, const float* weight, int64_t radius,
                     float* out, int64_t cols, int64_t channels) {
  for (int64_t c = 0; c < cols; ++c) {
    float* dst = out + c * channels;
    for (int64_t i = 0; i < channels; ++i) dst[i] = 0.0f;
    for (int64_t j = -radius; j <= radius; ++j) {
      const float* src = v + static_cast<int64_t>(nearest[reflect(c + j, cols)]) * channels;
      const float w = weight[j + radius];
      for (int64_t i = 0; i < channels; ++i) dst[i] += w * src[i];
    }
  }
}

static void lift_row(const LiftRow& a) {
  const int64_t channels = a.channels;
  for (int64_t c = 0; c < a.cols; ++c) {
    float* dst = a.full + c * channels;
    if (a.positions[c] >= 0) {
      const float* src = a.v + static_cast<int64_t>(a.positions[c]) * channels;
      for (int64_t i = 0; i < channels; ++i) dst[i] = src[i];
    } else {
      for (int64_t i = 0; i < channels; ++i) dst[i] = 0.0f;
      for (int64_t j = 0; j < a.taps; ++j) {
        const float* src = a.rows[j] + c * channels;
        const float w = a.weight[j];
        for (int64_t i = 0; i < channels; ++i) dst[i] += w * src[i];
      }
    }
    if (a.latents != nullptr) {
      float* y = a.latents + c * channels;
      const float step = a.d_sigma;
      for (int64_t i = 0; i < channels; ++i) y[i] += step * dst[i];
    }
  }
}

static void local_variance(const float* v, float* out, int64_t row_begin, int64_t row_end,
                           int64_t rows, int64_t cols, int64_t channels) {
  // Channels go through in blocks so that the window's sums stay in registers.
  constexpr int64_t kBlock = 16;
  for (int64_t r = row_begin; r < row_end; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      const float* window[9];
      int64_t count = 0;
      for (int64_t y = r - 1; y <= r + 1; ++y) {
        for (int64_t x = c - 1; x <= c + 1; ++x) {
          if (y < 0 || y >= rows || x < 0 || x >= cols) continue;
          window[count++] = v + (y * cols + x) * channels;
        }
      }
      double sum = 0.0;
      for (int64_t begin = 0; begin < channels; begin += kBlock) {
        const int64_t size = channels - begin < kBlock ? channels - begin : kBlock;
        float mean[kBlock] = {};
        float square[kBlock] = {};
        for (int64_t k = 0; k < count; ++k) {
          for (int64_t i = 0; i < size; ++i) mean[i] += window[k][begin + i];
        }
        for (int64_t i = 0; i < size; ++i) mean[i] /= 9.0f;
        for (int64_t k = 0; k < count; ++k) {
          for (int64_t i = 0; i < size; ++i) {
            const float delta = window[k][begin + i] - mean[i];
            square[i] += delta * delta;
          }
        }
        // The padding's zeros belong to the window too.
        const float padding = static_cast<float>(9 - count);
        for (int64_t i = 0; i < size; ++i) {
          sum += static_cast<double>((square[i] + padding * mean[i] * mean[i]) / 9.0f);
        }
      }
      out[r * cols + c] = static_cast<float>(sum / static_cast<double>(channels));
    }
  }
}

static void axpy(float a, const float* x, float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] += a * x[i];
}

JitKernels jit_kernels() {
  return {
      .blur_row = blur_row,
      .lift_row = lift_row,
      .local_variance = local_variance,
      .axpy = axpy,
  };
}

}  // namespace jitflux::kernels::JIT_FLUX_ISA_NAMESPACE
