#include "layers/group_norm.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "layers/activation.h"
#include "runtime/device.h"
#include "runtime/parallel.h"

namespace jitflux {

namespace {

template <typename T>
Affine cpu_group_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                      int64_t groups, double eps) {
  const int64_t rows = x.size(0);
  const int64_t columns = x.size(1);
  const int64_t channels = x.size(2);
  // A fixed number of partial sums, so that the result does not depend on the number of threads.
  const int64_t parts = std::min<int64_t>(rows, 64);
  std::vector<double> sums(static_cast<size_t>(parts * channels * 2));
  const auto* from = const_data<T>(x);
  at::parallel_for(0, parts, 1, [&](int64_t part_begin, int64_t part_end) {
    std::vector<float> mean(static_cast<size_t>(channels));
    std::vector<float> square(static_cast<size_t>(channels));
    for (int64_t part = part_begin; part < part_end; ++part) {
      double* sum = sums.data() + part * channels * 2;
      double* square_sum = sum + channels;
      for (int64_t row = rows * part / parts; row < rows * (part + 1) / parts; ++row) {
        row_kernels<T>().column_moments(from + row * x.stride(0), columns, channels, mean.data(),
                                        square.data());
        for (int64_t c = 0; c < channels; ++c) {
          const double m = mean[c];
          sum[c] += m * static_cast<double>(columns);
          square_sum[c] += square[c] + m * m * static_cast<double>(columns);
        }
      }
    }
  });
  Affine affine{at::empty({channels}, at::kFloat), at::empty({channels}, at::kFloat)};
  float* scale = affine.scale.mutable_data_ptr<float>();
  float* shift = affine.shift.mutable_data_ptr<float>();
  const float* gain = weight.const_data_ptr<float>();
  const float* offset = bias.const_data_ptr<float>();
  const int64_t width = channels / groups;
  const double count = static_cast<double>(rows * columns * width);
  for (int64_t group = 0; group < groups; ++group) {
    double sum = 0.0;
    double square_sum = 0.0;
    for (int64_t part = 0; part < parts; ++part) {
      const double* of = sums.data() + part * channels * 2 + group * width;
      for (int64_t c = 0; c < width; ++c) {
        sum += of[c];
        square_sum += of[channels + c];
      }
    }
    const double mean = sum / count;
    const double variance = std::max(0.0, square_sum / count - mean * mean);
    const double inverse = 1.0 / std::sqrt(variance + eps);
    for (int64_t c = group * width; c < (group + 1) * width; ++c) {
      scale[c] = static_cast<float>(gain[c] * inverse);
      shift[c] = static_cast<float>(offset[c] - mean * gain[c] * inverse);
    }
  }
  return affine;
}

Affine device_group_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                         int64_t groups, double eps) {
  const auto& kernels = *current_kernels();
  const int64_t rows = x.size(0);
  const int64_t columns = x.size(1);
  const int64_t channels = x.size(2);
  const at::TensorOptions options = options_here(at::kFloat);
  Affine affine{at::empty({channels}, options), at::empty({channels}, options)};
  const at::Tensor scratch = at::empty({kernels.group_norm_scratch_bytes(rows, columns, channels)},
                                       options.dtype(at::kByte));
  kernels.group_norm(element_of(x.scalar_type()),
                     {.x = x.const_data_ptr(),
                      .row_stride = x.stride(0),
                      .rows = rows,
                      .columns = columns,
                      .channels = channels,
                      .groups = groups,
                      .weight = weight.const_data_ptr<float>(),
                      .bias = bias.const_data_ptr<float>(),
                      .eps = static_cast<float>(eps),
                      .scale = affine.scale.mutable_data_ptr<float>(),
                      .shift = affine.shift.mutable_data_ptr<float>(),
                      .scratch = scratch.mutable_data_ptr()},
                     current_stream());
  return affine;
}

template <typename T>
void cpu_scale_shift_silu(const at::Tensor& src, const Affine& affine, const at::Tensor& dst) {
  const int64_t columns = src.size(1);
  const int64_t channels = src.size(2);
  const auto* from = const_data<T>(src);
  auto* to = data<T>(dst);
  const float* scale = affine.scale.const_data_ptr<float>();
  const float* shift = affine.shift.const_data_ptr<float>();
  parallel_rows(src.size(0), columns * channels, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      row_kernels<T>().scale_shift_silu(from + row * src.stride(0), scale, shift,
                                        to + row * dst.stride(0), columns, channels);
    }
  });
}

}  // namespace

Affine group_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                  int64_t groups, double eps) {
  if (on_accelerator()) return device_group_norm(x, weight, bias, groups, eps);
  return x.scalar_type() == at::kBFloat16
             ? cpu_group_norm<at::BFloat16>(x, weight, bias, groups, eps)
             : cpu_group_norm<float>(x, weight, bias, groups, eps);
}

void scale_shift_silu(const at::Tensor& src, const Affine& affine, const at::Tensor& dst) {
  if (const auto* device = current_kernels()) {
    device->scale_shift_silu(element_of(src.scalar_type()),
                             {.x = src.const_data_ptr(),
                              .x_row_stride = src.stride(0),
                              .scale = affine.scale.const_data_ptr<float>(),
                              .shift = affine.shift.const_data_ptr<float>(),
                              .out = dst.mutable_data_ptr(),
                              .out_row_stride = dst.stride(0),
                              .rows = src.size(0),
                              .columns = src.size(1),
                              .channels = src.size(2)},
                             current_stream());
  } else if (src.scalar_type() == at::kBFloat16) {
    cpu_scale_shift_silu<at::BFloat16>(src, affine, dst);
  } else {
    cpu_scale_shift_silu<float>(src, affine, dst);
  }
}

}  // namespace jitflux
