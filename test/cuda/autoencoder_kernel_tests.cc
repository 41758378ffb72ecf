// Kernels over the autoencoder's feature maps.
#include <algorithm>
#include <cmath>

#include "tests.h"

namespace jitflux::kernel_tests {

namespace {

const kernels::DeviceKernels& device() { return kernels::cuda_kernels(); }

struct MapShape {
  int64_t rows;
  int64_t columns;
  int64_t channels;
  int64_t groups;
  int64_t extra;  // elements between the rows

  int64_t stride() const { return columns * channels + extra; }
  std::string label(Element type, int64_t offset) const {
    return std::string(name_of(kind_of(type))) + " " + std::to_string(rows) + "x" +
           std::to_string(columns) + "x" + std::to_string(channels) + " groups " +
           std::to_string(groups) + " extra " + std::to_string(extra) + " offset " +
           std::to_string(offset);
  }
};

void test_group_norm(Report& report) {
  report.begin("group_norm");
  const std::vector<MapShape> shapes = {
      {1, 1, 3, 3, 0},      {1, 1, 3, 1, 0},      {4, 5, 16, 4, 0},     {7, 5, 64, 32, 0},
      {7, 5, 64, 32, 64},   {33, 17, 128, 32, 8}, {64, 64, 128, 32, 0}, {20, 20, 20, 5, 3},
      {3, 200, 512, 32, 0}, {5, 3, 2056, 8, 0},   {40, 1, 7, 7, 1},     {300, 220, 8, 2, 0},
  };
  constexpr float kEps = 1e-6f;
  for (const Element type : kElements) {
    for (const MapShape& s : shapes) {
      std::vector<unsigned char> aligned;
      for (const int64_t offset : {0, 1}) {
        Random random(static_cast<uint64_t>(s.channels + s.rows));
        Case c(report, s.label(type, offset), offset);
        std::vector<double> values = random.normals(s.rows * s.stride(), 4.0, 1.5);
        Buffer& x = c.input(kind_of(type), values);
        Buffer& weight = c.input(Kind::kFloat32, random.normals(s.channels));
        Buffer& bias = c.input(Kind::kFloat32, random.normals(s.channels));
        Buffer& scale = c.output(Kind::kFloat32, s.channels);
        Buffer& shift = c.output(Kind::kFloat32, s.channels);
        const int64_t bytes = device().group_norm_scratch_bytes(s.rows, s.columns, s.channels);
        // Its contents are checked too: written in one way only.
        Buffer& scratch = c.output(Kind::kFloat32, bytes / 4);
        if (!c.run([&] {
              device().group_norm(type,
                                  {.x = x.data(),
                                   .row_stride = s.stride(),
                                   .rows = s.rows,
                                   .columns = s.columns,
                                   .channels = s.channels,
                                   .groups = s.groups,
                                   .weight = weight.as<float>(),
                                   .bias = bias.as<float>(),
                                   .eps = kEps,
                                   .scale = scale.as<float>(),
                                   .shift = shift.as<float>(),
                                   .scratch = scratch.data()},
                                  nullptr);
            })) {
          continue;
        }
        if (offset != 0) {
          c.expect_same_bits(aligned, scale.output_bytes(), "unaligned buffers change the result");
          continue;
        }
        aligned = scale.output_bytes();
        const int64_t width = s.channels / s.groups;
        const auto count = static_cast<double>(s.rows * s.columns * width);
        for (int64_t group = 0; group < s.groups; ++group) {
          const auto each = [&](const auto& f) {
            for (int64_t row = 0; row < s.rows; ++row) {
              for (int64_t column = 0; column < s.columns; ++column) {
                for (int64_t i = 0; i < width; ++i) {
                  f(x.input(row * s.stride() + column * s.channels + group * width + i));
                }
              }
            }
          };
          double mean = 0.0;
          double variance = 0.0;
          each([&](double value) { mean += value; });
          mean /= count;
          each([&](double value) { variance += (value - mean) * (value - mean); });
          variance /= count;
          const double inverse = 1.0 / std::sqrt(variance + static_cast<double>(kEps));
          for (int64_t i = group * width; i < (group + 1) * width; ++i) {
            const double gain = weight.input(i) * inverse;
            c.compare(scale, i, gain, std::fabs(gain));
            c.compare(shift, i, bias.input(i) - mean * gain,
                      std::fabs(bias.input(i)) + std::fabs(mean * gain));
          }
        }
      }
    }
  }
}

void test_scale_shift_silu(Report& report) {
  report.begin("scale_shift_silu");
  const std::vector<MapShape> shapes = {
      {0, 4, 8, 1, 0},    {1, 1, 1, 1, 0},    {7, 5, 3, 1, 0},  {7, 5, 64, 1, 64},
      {9, 17, 128, 1, 3}, {6, 33, 512, 1, 0}, {5, 3, 20, 1, 4}, {3, 1, 16, 1, 8},
  };
  for (const Element type : kElements) {
    for (const MapShape& s : shapes) {
      for (const bool in_place : {false, true}) {
        std::vector<unsigned char> aligned;
        for (const int64_t offset : {0, 1}) {
          Random random(static_cast<uint64_t>(s.channels + s.rows));
          Case c(report, s.label(type, offset) + (in_place ? " in place" : ""), offset);
          const Kind kind = kind_of(type);
          std::vector<double> values = random.normals(s.rows * s.stride(), 1.0, 3.0);
          if (s.rows == 9) {
            values[0] = 60000.0;
            values[5] = -60000.0;
            values[11] = NAN;
            values[17] = -90.0;
          }
          Buffer& x = in_place ? c.in_out(kind, values) : c.input(kind, values);
          Buffer& scale = c.input(Kind::kFloat32, random.normals(s.channels));
          Buffer& shift = c.input(Kind::kFloat32, random.normals(s.channels));
          const int64_t out_stride = in_place ? s.stride() : s.columns * s.channels + 2 * s.extra;
          Buffer& other = c.output(kind, in_place ? 0 : s.rows * out_stride);
          Buffer& out = in_place ? x : other;
          if (!c.run([&] {
                device().scale_shift_silu(type,
                                          {.x = x.data(),
                                           .x_row_stride = s.stride(),
                                           .scale = scale.as<float>(),
                                           .shift = shift.as<float>(),
                                           .out = out.data(),
                                           .out_row_stride = out_stride,
                                           .rows = s.rows,
                                           .columns = s.columns,
                                           .channels = s.channels},
                                          nullptr);
              })) {
            continue;
          }
          if (offset != 0) {
            c.expect_same_bits(aligned, out.output_bytes(), "unaligned buffers change the result");
            continue;
          }
          aligned = out.output_bytes();
          for (int64_t row = 0; row < s.rows; ++row) {
            for (int64_t i = 0; i < s.columns * s.channels; ++i) {
              const double product = x.input(row * s.stride() + i) * scale.input(i % s.channels);
              const double y = product + shift.input(i % s.channels);
              const double value = y / (1.0 + std::exp(-y));
              // y's own error, through a function of slope below 1.1.
              const double magnitude =
                  std::fabs(value) +
                  0.2 * (std::fabs(product) + std::fabs(shift.input(i % s.channels)));
              c.compare(out, row * out_stride + i, value, magnitude);
            }
            for (int64_t i = s.columns * s.channels; in_place && i < out_stride; ++i) {
              c.expect_equal(out, row * out_stride + i, x.input(row * out_stride + i));
            }
          }
        }
      }
    }
  }
}

}  // namespace

void test_autoencoder(Report& report) {
  test_group_norm(report);
  test_scale_shift_silu(report);
}

}  // namespace jitflux::kernel_tests
