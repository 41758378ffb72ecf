// Kernels over token rows.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/kernels.h"
#include "tests.h"

namespace jitflux::kernel_tests {

namespace {

using kernels::DeviceKernels;

constexpr float kEps = 1e-6f;

const DeviceKernels& device() { return kernels::cuda_kernels(); }

std::string label(Element type, std::initializer_list<std::pair<const char*, int64_t>> sizes) {
  std::string text = name_of(kind_of(type));
  for (const auto& [name, value] : sizes)
    text += std::string(" ") + name + " " + std::to_string(value);
  return text;
}

// Calls f with the buffer's values in the CPU kernels' type, where they have it.
template <typename F>
bool with_cpu_type(Element type, const F& f) {
  if (type == Element::kFloat32) {
    f(float{});
  } else if (type == Element::kBFloat16) {
    f(kernels::BFloat16Bits{});
  } else {
    return false;
  }
  return true;
}

template <typename T>
std::vector<T> values_of(const unsigned char* bytes, int64_t count) {
  std::vector<T> values(static_cast<size_t>(count));
  if (count > 0) std::memcpy(values.data(), bytes, values.size() * sizeof(T));
  return values;
}
template <typename T>
std::vector<T> inputs_of(const Buffer& buffer) {
  return values_of<T>(buffer.input_bytes(), buffer.size());
}

double value_of(float value) { return value; }
double value_of(kernels::BFloat16Bits value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  float single;
  std::memcpy(&single, &bits, sizeof single);
  return single;
}

// layer_norm(x) * (1 + scale) + shift of row r, x given by a function.
template <typename X>
void compare_layer_norm(Case& c, const Buffer& out, const X& x, const Buffer& shift,
                        const Buffer& scale, int64_t r, int64_t d) {
  double mean = 0.0;
  for (int64_t i = 0; i < d; ++i) mean += x(r * d + i);
  mean /= static_cast<double>(d);
  double variance = 0.0;
  for (int64_t i = 0; i < d; ++i) variance += (x(r * d + i) - mean) * (x(r * d + i) - mean);
  variance /= static_cast<double>(d);
  const double inverse = 1.0 / std::sqrt(variance + static_cast<double>(kEps));
  for (int64_t i = 0; i < d; ++i) {
    const double gain = (1.0 + scale.input(i)) * inverse;
    const double value = x(r * d + i);
    const double magnitude =
        (std::fabs(value) + std::fabs(mean)) * std::fabs(gain) + std::fabs(shift.input(i));
    c.compare(out, r * d + i, (value - mean) * gain + shift.input(i), magnitude);
  }
}

struct RowShape {
  int64_t rows;
  int64_t d;
};

std::vector<RowShape> row_shapes() {
  std::vector<RowShape> shapes = {{0, 64}, {37, 3072}};
  for (const int64_t d : {1, 2, 7, 8, 64, 129, 256, 1000, 1024, 1025, 2048, 3073, 3080, 4096, 4100,
                          8192, 8200, 16383, 16384}) {
    shapes.push_back({d > 4096 ? 2 : 5, d});
  }
  return shapes;
}

void test_layer_norm(Report& report) {
  report.begin("layer_norm_modulate");
  for (const Element type : kElements) {
    for (const auto& [rows, d] : row_shapes()) {
      std::vector<unsigned char> aligned;
      for (const int64_t offset : {0, 1}) {
        Random random(static_cast<uint64_t>(d));
        Case c(report, label(type, {{"rows", rows}, {"d", d}, {"offset", offset}}), offset);
        const Kind kind = kind_of(type);
        Buffer& x = c.input(kind, random.normals(rows * d, 0.5, 2.0));
        Buffer& shift = c.input(Kind::kFloat32, random.normals(d));
        Buffer& scale = c.input(Kind::kFloat32, random.normals(d, 0.0, 0.5));
        Buffer& out = c.output(kind, rows * d);
        if (!c.run([&, rows = rows, d = d] {
              device().layer_norm_modulate(type,
                                           {.x = x.data(),
                                            .shift = shift.as<float>(),
                                            .scale = scale.as<float>(),
                                            .out = out.data(),
                                            .rows = rows,
                                            .d = d,
                                            .eps = kEps},
                                           nullptr);
            })) {
          continue;
        }
        if (offset != 0) {
          c.expect_same_bits(aligned, out.output_bytes(), "unaligned buffers change the result");
          continue;
        }
        aligned = out.output_bytes();
        for (int64_t r = 0; r < rows; ++r) {
          compare_layer_norm(
              c, out, [&](int64_t i) { return x.input(i); }, shift, scale, r, d);
        }
        with_cpu_type(type, [&, rows = rows, d = d](auto tag) {
          using T = decltype(tag);
          std::vector<T> cpu(static_cast<size_t>(rows * d));
          const auto f = inputs_of<float>(shift);
          const auto g = inputs_of<float>(scale);
          kernels::table().rows<T>().layer_norm_modulate(inputs_of<T>(x).data(), f.data(), g.data(),
                                                         cpu.data(), rows, d, kEps);
          // Magnitudes as above, roughly.
          for (int64_t i = 0; i < rows * d; ++i) {
            const double magnitude =
                (std::fabs(x.input(i)) + 1.0) * (1.0 + std::fabs(scale.input(i % d))) +
                std::fabs(shift.input(i % d));
            c.compare_cpu(out, i, value_of(cpu[i]), magnitude);
          }
        });
      }
    }
  }
}

void test_gated_residual(Report& report) {
  report.begin("gated_residual");
  for (const Element type : kElements) {
    for (const auto& [rows, d] : row_shapes()) {
      for (const bool norm : {false, true}) {
        std::vector<unsigned char> aligned;
        for (const int64_t offset : {0, 1}) {
          Random random(static_cast<uint64_t>(d));
          Case c(report,
                 label(type, {{"rows", rows}, {"d", d}, {"norm", norm}, {"offset", offset}}),
                 offset);
          const Kind kind = kind_of(type);
          Buffer& x = c.in_out(kind, random.normals(rows * d, 0.5, 2.0));
          Buffer& y = c.input(kind, random.normals(rows * d));
          Buffer& gate = c.input(Kind::kFloat32, random.normals(d));
          Buffer& shift = c.input(Kind::kFloat32, random.normals(d));
          Buffer& scale = c.input(Kind::kFloat32, random.normals(d, 0.0, 0.5));
          Buffer& out = c.output(kind, rows * d);
          if (!c.run([&, rows = rows, d = d] {
                device().gated_residual(type,
                                        {.x = x.data(),
                                         .y = y.data(),
                                         .gate = gate.as<float>(),
                                         .shift = norm ? shift.as<float>() : nullptr,
                                         .scale = norm ? scale.as<float>() : nullptr,
                                         .out = norm ? out.data() : nullptr,
                                         .rows = rows,
                                         .d = d,
                                         .eps = kEps},
                                        nullptr);
              })) {
            continue;
          }
          std::vector<unsigned char> both = x.output_bytes();
          both.insert(both.end(), out.output_bytes().begin(), out.output_bytes().end());
          if (offset != 0) {
            c.expect_same_bits(aligned, both, "unaligned buffers change the result");
            continue;
          }
          aligned = both;
          for (int64_t i = 0; i < rows * d; ++i) {
            const double added = gate.input(i % d) * y.input(i);
            c.compare(x, i, x.input(i) + added, std::fabs(x.input(i)) + std::fabs(added));
          }
          if (!norm) {
            const auto size = static_cast<size_t>(out.size()) * size_of(kind);
            c.expect_same_bits({out.input_bytes(), out.input_bytes() + size}, out.output_bytes(),
                               "output without a norm");
          }
          for (int64_t r = 0; norm && r < rows; ++r) {
            compare_layer_norm(
                c, out, [&](int64_t i) { return x.output(i); }, shift, scale, r, d);
          }
          with_cpu_type(type, [&, rows = rows, d = d](auto tag) {
            using T = decltype(tag);
            auto cpu = inputs_of<T>(x);
            const auto g = inputs_of<float>(gate);
            kernels::table().rows<T>().gated_residual(cpu.data(), inputs_of<T>(y).data(), {},
                                                      g.data(), rows, d);
            for (int64_t i = 0; i < rows * d; ++i) {
              c.compare_cpu(x, i, value_of(cpu[i]),
                            std::fabs(x.input(i)) + std::fabs(gate.input(i % d) * y.input(i)));
            }
          });
        }
      }
    }
  }
}

void test_rms_norm(Report& report) {
  report.begin("rms_norm");
  for (const Element type : kElements) {
    for (const auto& [rows, d] : row_shapes()) {
      std::vector<unsigned char> aligned;
      for (const int64_t offset : {0, 1}) {
        Random random(static_cast<uint64_t>(d));
        Case c(report, label(type, {{"rows", rows}, {"d", d}, {"offset", offset}}), offset);
        Buffer& x = c.input(Kind::kFloat32, random.normals(rows * d, 0.5, 20.0));
        Buffer& weight = c.input(Kind::kFloat32, random.normals(d));
        Buffer& out = c.output(kind_of(type), rows * d);
        if (!c.run([&, rows = rows, d = d] {
              device().rms_norm(type, x.as<float>(), weight.as<float>(), out.data(), rows, d, kEps,
                                nullptr);
            })) {
          continue;
        }
        if (offset != 0) {
          c.expect_same_bits(aligned, out.output_bytes(), "unaligned buffers change the result");
          continue;
        }
        aligned = out.output_bytes();
        for (int64_t r = 0; r < rows; ++r) {
          double square = 0.0;
          for (int64_t i = 0; i < d; ++i) square += x.input(r * d + i) * x.input(r * d + i);
          const double inverse =
              1.0 / std::sqrt(square / static_cast<double>(d) + static_cast<double>(kEps));
          for (int64_t i = 0; i < d; ++i) {
            const double value = x.input(r * d + i) * inverse * weight.input(i);
            c.compare(out, r * d + i, value, std::fabs(value));
          }
        }
        with_cpu_type(type, [&, rows = rows, d = d](auto tag) {
          using T = decltype(tag);
          std::vector<T> cpu(static_cast<size_t>(rows * d));
          const auto w = inputs_of<float>(weight);
          kernels::table().rows<T>().rms_norm(inputs_of<float>(x).data(), w.data(), cpu.data(),
                                              rows, d, kEps);
          for (int64_t i = 0; i < rows * d; ++i) {
            c.compare_cpu(out, i, value_of(cpu[i]), std::fabs(value_of(cpu[i])));
          }
        });
      }
    }
  }
}

struct HeadShape {
  int64_t rows;
  int64_t heads;
  int64_t head_dim;
  int64_t extra;  // columns of a row after v
  bool rotated;
  bool positions;
  bool in_place;
  bool v;
};

void test_qk_norm_rope(Report& report) {
  report.begin("qk_norm_rope");
  const std::vector<HeadShape> shapes = {
      {0, 2, 16, 0, true, true, true, false},    {1, 1, 16, 0, true, true, false, true},
      {5, 3, 32, 0, true, false, false, true},   {5, 2, 48, 40, true, true, true, false},
      {5, 4, 64, 0, false, false, true, false},  {9, 24, 128, 12288, true, true, true, false},
      {9, 24, 128, 0, true, true, false, true},  {9, 24, 128, 0, false, false, false, true},
      {3, 2, 256, 0, true, true, false, true},   {3, 24, 256, 0, true, true, true, true},
      {3, 5, 6, 1, true, true, true, false},     {3, 1, 2, 0, true, true, false, true},
      {3, 3, 250, 0, true, true, false, true},   {4, 7, 128, 3, true, true, false, true},
      {2, 1, 128, 0, true, false, false, false}, {3, 24, 16, 0, true, true, true, false},
  };
  for (const Element type : kElements) {
    for (const HeadShape& s : shapes) {
      std::vector<unsigned char> aligned;
      for (const int64_t offset : {0, 1}) {
        const int64_t width = s.heads * s.head_dim;
        const int64_t stride = 3 * width + s.extra;
        const int64_t table_rows = s.rows + 7;
        Random random(static_cast<uint64_t>(s.head_dim + s.heads));
        Case c(report,
               label(type, {{"rows", s.rows},
                            {"heads", s.heads},
                            {"head_dim", s.head_dim},
                            {"extra", s.extra},
                            {"rotated", s.rotated},
                            {"in place", s.in_place},
                            {"offset", offset}}),
               offset);
        const Kind kind = kind_of(type);
        std::vector<double> values = random.normals(s.rows * stride, 0.0, 3.0);
        Buffer& qkv = s.in_place ? c.in_out(kind, values) : c.input(kind, values);
        Buffer& q_weight = c.input(Kind::kFloat32, random.normals(s.head_dim));
        Buffer& k_weight = c.input(Kind::kFloat32, random.normals(s.head_dim));
        std::vector<double> cosines(static_cast<size_t>(table_rows * s.head_dim));
        std::vector<double> sines(cosines.size());
        for (size_t i = 0; i < cosines.size(); i += 2) {
          const double angle = 6.0 * random.uniform();
          cosines[i] = cosines[i + 1] = std::cos(angle);
          sines[i + 1] = std::sin(angle);
          sines[i] = -sines[i + 1];
        }
        Buffer& cos = c.input(Kind::kFloat32, cosines);
        Buffer& sin = c.input(Kind::kFloat32, sines);
        std::vector<int32_t> list = random.permutation(table_rows);
        list.resize(static_cast<size_t>(s.rows));
        Buffer& positions = c.input(list);
        // Joint buffers of other rows too: the outputs are further apart than wide.
        const int64_t out_stride = s.in_place ? stride : width + (s.extra % 8);
        const int64_t out_size = s.in_place ? 0 : s.rows * out_stride;
        Buffer& q = c.output(kind, out_size);
        Buffer& k = c.output(kind, out_size);
        Buffer& v = c.output(kind, s.in_place ? s.rows * stride : out_size);
        const size_t bytes = size_of(kind);
        auto* const base = qkv.as<unsigned char>();
        void* const to_q = s.in_place ? base : q.data();
        void* const to_k = s.in_place ? base + static_cast<size_t>(width) * bytes : k.data();
        if (!c.run([&] {
              device().qk_norm_rope(type,
                                    {.qkv = qkv.data(),
                                     .qkv_stride = stride,
                                     .q_weight = q_weight.as<float>(),
                                     .k_weight = k_weight.as<float>(),
                                     .cos = s.rotated ? cos.as<float>() : nullptr,
                                     .sin = s.rotated ? sin.as<float>() : nullptr,
                                     .positions = s.positions ? positions.as<int32_t>() : nullptr,
                                     .q = to_q,
                                     .k = to_k,
                                     .v = s.v ? v.data() : nullptr,
                                     .out_stride = out_stride,
                                     .rows = s.rows,
                                     .heads = s.heads,
                                     .head_dim = s.head_dim,
                                     .eps = kEps},
                                    nullptr);
            })) {
          continue;
        }
        std::vector<unsigned char> all;
        for (const Buffer* buffer : {&qkv, &q, &k, &v}) {
          if (!buffer->is_output()) continue;
          all.insert(all.end(), buffer->output_bytes().begin(), buffer->output_bytes().end());
        }
        if (offset != 0) {
          c.expect_same_bits(aligned, all, "unaligned buffers change the result");
          continue;
        }
        aligned = all;
        for (int64_t r = 0; r < s.rows; ++r) {
          const int64_t position = s.positions ? list[r] : r;
          for (int64_t head = 0; head < 2 * s.heads; ++head) {
            const bool is_q = head < s.heads;
            const Buffer& weight = is_q ? q_weight : k_weight;
            const int64_t from = r * stride + head * s.head_dim;
            double square = 0.0;
            for (int64_t i = 0; i < s.head_dim; ++i) {
              square += qkv.input(from + i) * qkv.input(from + i);
            }
            const double inverse = 1.0 / std::sqrt(square / static_cast<double>(s.head_dim) +
                                                   static_cast<double>(kEps));
            const auto normed = [&](int64_t i) {
              return qkv.input(from + i) * inverse * weight.input(i);
            };
            const Buffer& out = s.in_place ? qkv : is_q ? q : k;
            const int64_t to =
                s.in_place ? from : r * out_stride + (is_q ? head : head - s.heads) * s.head_dim;
            for (int64_t i = 0; i < s.head_dim; ++i) {
              double value = normed(i);
              double magnitude = std::fabs(value);
              if (s.rotated) {
                const double a = value * cosines[position * s.head_dim + i];
                const double b = normed(i ^ 1) * sines[position * s.head_dim + i];
                value = a + b;
                magnitude = std::fabs(a) + std::fabs(b);
              }
              c.compare(out, to + i, value, magnitude);
            }
          }
          // The rest of a row in place stays as it was; v is copied, bit by bit.
          for (int64_t i = 2 * width; s.in_place && i < stride; ++i) {
            c.expect_equal(qkv, r * stride + i, qkv.input(r * stride + i));
          }
          for (int64_t i = 0; s.v && i < width; ++i) {
            c.expect_equal(v, r * out_stride + i, qkv.input(r * stride + 2 * width + i));
          }
        }
        if (s.in_place || out_stride != width) continue;
        with_cpu_type(type, [&](auto tag) {
          using T = decltype(tag);
          std::vector<T> cpu_q(static_cast<size_t>(s.rows * width));
          std::vector<T> cpu_k(cpu_q.size());
          std::vector<T> cpu_v(cpu_q.size());
          const auto wq = inputs_of<float>(q_weight);
          const auto wk = inputs_of<float>(k_weight);
          const auto table_cos = inputs_of<float>(cos);
          const auto table_sin = inputs_of<float>(sin);
          const auto source = inputs_of<T>(qkv);
          kernels::table().rows<T>().qk_norm_rope({.qkv = source.data(),
                                                   .qkv_stride = stride,
                                                   .q_weight = wq.data(),
                                                   .k_weight = wk.data(),
                                                   .cos = s.rotated ? table_cos.data() : nullptr,
                                                   .sin = s.rotated ? table_sin.data() : nullptr,
                                                   .positions = s.positions ? list.data() : nullptr,
                                                   .q = cpu_q.data(),
                                                   .k = cpu_k.data(),
                                                   .v = cpu_v.data(),
                                                   .rows = s.rows,
                                                   .heads = s.heads,
                                                   .head_dim = s.head_dim,
                                                   .eps = kEps});
          for (int64_t i = 0; i < s.rows * width; ++i) {
            c.compare_cpu(q, i, value_of(cpu_q[i]), std::fabs(value_of(cpu_q[i])) + 1.0);
            c.compare_cpu(k, i, value_of(cpu_k[i]), std::fabs(value_of(cpu_k[i])) + 1.0);
          }
        });
      }
    }
  }
}

struct GeluShape {
  int64_t rows;
  int64_t d;
  int64_t prefix;      // columns before
  bool copies_prefix;  // from another buffer
  int64_t src_extra;   // strides beyond the width
  int64_t dst_extra;
};

double gelu(double x) {
  const double u = 0.7978845608028654 * (x + 0.044715 * x * x * x);
  return x / (1.0 + std::exp(-2.0 * u));
}

void test_gelu(Report& report) {
  report.begin("gelu_tanh");
  const std::vector<GeluShape> shapes = {
      {0, 8, 0, false, 0, 0},        {1, 1, 0, false, 0, 0},         {5, 7, 3, true, 2, 1},
      {5, 64, 16, true, 8, 8},       {6, 64, 16, false, 0, 0},       {7, 100, 5, false, 1, 0},
      {3, 3072, 768, true, 9216, 0}, {9, 2056, 8, true, 0, 16},      {4, 16, 8, true, 0, 4},
      {2, 64, 3, true, 0, 0},        {65540 * 4, 1, 0, false, 0, 0},
  };
  for (const Element type : kElements) {
    for (const GeluShape& s : shapes) {
      if (s.rows > 1000 && type != Element::kBFloat16) continue;
      std::vector<unsigned char> aligned;
      for (const int64_t offset : {0, 1}) {
        if (s.rows > 1000 && offset != 0) continue;
        const int64_t src_stride = s.d + s.src_extra;
        const int64_t dst_stride = s.prefix + s.d + s.dst_extra;
        const int64_t prefix_stride = s.prefix + s.src_extra;
        Random random(static_cast<uint64_t>(s.d));
        Case c(report,
               label(type, {{"rows", s.rows},
                            {"d", s.d},
                            {"prefix", s.prefix},
                            {"copied", s.copies_prefix},
                            {"offset", offset}}),
               offset);
        const Kind kind = kind_of(type);
        std::vector<double> values = random.normals(s.rows * src_stride, 0.0, 3.0);
        // Where e^x overflows, vanishes or is 1.
        const std::vector<double> special = {60000.0, -60000.0, 1e30, -1e30, 0.0,  -0.0,
                                             12.0,    -12.0,    NAN,  1e-6,  -9.0, 20.0};
        for (size_t i = 0; i < special.size() && s.rows == 9; ++i) values[i * 7] = special[i];
        Buffer& src = c.input(kind, values);
        Buffer& prefix = c.input(kind, random.normals(s.rows * prefix_stride));
        Buffer& dst =
            c.in_out(kind, std::vector<double>(static_cast<size_t>(s.rows * dst_stride), 77.0));
        if (!c.run([&] {
              device().gelu_tanh(type,
                                 {.src = src.data(),
                                  .src_stride = src_stride,
                                  .prefix = s.copies_prefix ? prefix.data() : nullptr,
                                  .prefix_stride = prefix_stride,
                                  .prefix_columns = s.prefix,
                                  .dst = dst.data(),
                                  .dst_stride = dst_stride,
                                  .rows = s.rows,
                                  .d = s.d},
                                 nullptr);
            })) {
          continue;
        }
        if (offset != 0) {
          c.expect_same_bits(aligned, dst.output_bytes(), "unaligned buffers change the result");
          continue;
        }
        aligned = dst.output_bytes();
        for (int64_t r = 0; r < s.rows; ++r) {
          for (int64_t i = 0; i < s.prefix; ++i) {
            c.expect_equal(dst, r * dst_stride + i,
                           s.copies_prefix ? prefix.input(r * prefix_stride + i) : 77.0);
          }
          for (int64_t i = 0; i < s.dst_extra; ++i) {
            c.expect_equal(dst, r * dst_stride + s.prefix + s.d + i, 77.0);
          }
          for (int64_t i = 0; i < s.d; ++i) {
            const double x = src.input(r * src_stride + i);
            const double value = gelu(x);
            // Far below 0 the error of the exponent counts as often as the exponent is large.
            const double exponent = std::min(1.6 * std::fabs(x + 0.044715 * x * x * x), 100.0);
            c.compare(dst, r * dst_stride + s.prefix + i, value,
                      std::fabs(value) * (1.0 + (x < 0.0 ? 0.2 * exponent : 0.0)));
          }
        }
        if (s.rows > 1000) continue;
        with_cpu_type(type, [&](auto tag) {
          using T = decltype(tag);
          std::vector<T> cpu(static_cast<size_t>(s.rows * s.d));
          kernels::table().rows<T>().gelu_tanh(inputs_of<T>(src).data(), src_stride, {}, cpu.data(),
                                               s.d, s.rows, s.d);
          for (int64_t r = 0; r < s.rows; ++r) {
            for (int64_t i = 0; i < s.d; ++i) {
              const double x = src.input(r * src_stride + i);
              // The CPU saturates and passes NaN of its own.
              if (!(std::fabs(x) < 6.0)) continue;
              const double value = value_of(cpu[r * s.d + i]);
              c.compare_cpu(dst, r * dst_stride + s.prefix + i, value,
                            std::fabs(value) * (x < 0.0 ? 4.0 : 1.0));
            }
          }
        });
      }
    }
  }
}

void test_gather_embed(Report& report) {
  report.begin("gather_embed");
  struct Shape {
    int64_t rows;
    int64_t channels;
    int64_t d;
    bool gathers;
  };
  const std::vector<Shape> shapes = {
      {0, 64, 64, true},    {1, 1, 1, true},     {5, 3, 65, false},  {70, 64, 256, true},
      {64, 64, 128, true},  {9, 16, 100, false}, {3, 384, 72, true}, {65, 33, 64, true},
      {2, 512, 3072, true}, {130, 64, 8, false},
  };
  constexpr int64_t kColumns = kernels::kEmbedColumns;
  for (const Element type : kElements) {
    for (const Shape& s : shapes) {
      std::vector<unsigned char> aligned;
      for (const int64_t offset : {0, 1}) {
        Random random(static_cast<uint64_t>(s.d));
        Case c(report,
               label(type, {{"rows", s.rows},
                            {"channels", s.channels},
                            {"d", s.d},
                            {"gathers", s.gathers},
                            {"offset", offset}}),
               offset);
        const int64_t tokens = s.rows + 5;
        std::vector<int32_t> list = random.permutation(tokens);
        list.resize(static_cast<size_t>(s.rows));
        Buffer& latents = c.input(Kind::kFloat32, random.normals(tokens * s.channels));
        Buffer& positions = c.input(list);
        const int64_t blocks = (s.d + kColumns - 1) / kColumns;
        std::vector<double> packed(static_cast<size_t>(blocks * s.channels * kColumns), 0.0);
        const auto at = [&](int64_t channel, int64_t column) {
          return (column / kColumns * s.channels + channel) * kColumns + column % kColumns;
        };
        for (int64_t channel = 0; channel < s.channels; ++channel) {
          for (int64_t column = 0; column < s.d; ++column) {
            packed[at(channel, column)] = random.normal();
          }
        }
        Buffer& weight = c.input(Kind::kFloat32, packed);
        Buffer& bias = c.input(Kind::kFloat32, random.normals(s.d));
        Buffer& out = c.output(kind_of(type), s.rows * s.d);
        if (!c.run([&] {
              device().gather_embed(type,
                                    {.latents = latents.as<float>(),
                                     .positions = s.gathers ? positions.as<int32_t>() : nullptr,
                                     .weight = weight.as<float>(),
                                     .bias = bias.as<float>(),
                                     .out = out.data(),
                                     .rows = s.rows,
                                     .channels = s.channels,
                                     .d = s.d},
                                    nullptr);
            })) {
          continue;
        }
        if (offset != 0) {
          c.expect_same_bits(aligned, out.output_bytes(), "unaligned buffers change the result");
          continue;
        }
        aligned = out.output_bytes();
        for (int64_t r = 0; r < s.rows; ++r) {
          const int64_t token = s.gathers ? list[r] : r;
          for (int64_t i = 0; i < s.d; ++i) {
            double value = bias.input(i);
            double magnitude = std::fabs(value);
            for (int64_t channel = 0; channel < s.channels; ++channel) {
              const double product =
                  rounded(kind_of(type), latents.input(token * s.channels + channel)) *
                  weight.input(at(channel, i));
              value += product;
              magnitude += std::fabs(product);
            }
            c.compare(out, r * s.d + i, value, magnitude);
          }
        }
        with_cpu_type(type, [&](auto tag) {
          using T = decltype(tag);
          std::vector<T> cpu(static_cast<size_t>(s.rows * s.d));
          const auto w = inputs_of<float>(weight);
          const auto b = inputs_of<float>(bias);
          const auto source = inputs_of<float>(latents);
          kernels::table().rows<T>().gather_embed({.latents = source.data(),
                                                   .positions = s.gathers ? list.data() : nullptr,
                                                   .weight = w.data(),
                                                   .bias = b.data(),
                                                   .out = cpu.data(),
                                                   .rows = s.rows,
                                                   .channels = s.channels,
                                                   .d = s.d});
          for (int64_t i = 0; i < s.rows * s.d; ++i) {
            c.compare_cpu(out, i, value_of(cpu[i]), 2.0 + static_cast<double>(s.channels));
          }
        });
      }
    }
  }
}

}  // namespace

void test_rows(Report& report) {
  test_layer_norm(report);
  test_gated_residual(report);
  test_rms_norm(report);
  test_qk_norm_rope(report);
  test_gelu(report);
  test_gather_embed(report);
}

}  // namespace jitflux::kernel_tests
