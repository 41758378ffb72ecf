// What the machine can reach at best: matrix products through every way LibTorch offers, and
// moving memory.
#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <ATen/ops/_int_mm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

#include "register_peak.h"
#include "sections.h"

namespace jitflux::bench {

namespace {

// y[S, N] = x[S, K] W[N, K]^T
struct GemmShape {
  int64_t k;
  int64_t n;
};

// Tokens of FLUX.1-dev at 1024 x 1024 pixels, text included.
int64_t rows_of(const Report& report) { return report.options().smoke() ? 64 : 4608; }

double gemm_flops(int64_t rows, const GemmShape& shape) {
  return 2.0 * static_cast<double>(rows) * static_cast<double>(shape.k) *
         static_cast<double>(shape.n);
}

// Operators without a C++ function, called as torch.compile's programs do.
at::Tensor call(const char* name, torch::jit::Stack stack) {
  c10::Dispatcher::singleton().findSchemaOrThrow(name, "").callBoxed(&stack);
  return stack.at(0).toTensor();
}

at::Tensor linear_pointwise(const at::Tensor& x, const at::Tensor& weight) {
  return call("mkldnn::_linear_pointwise",
              {x, weight, c10::IValue(), "none", c10::List<std::optional<at::Scalar>>(), ""});
}

// The best of a dtype's products: of its fastest samples, as a ceiling should not sink when the
// machine is busy. The rows have medians like all others.
struct Best {
  double gflops = 0;
  std::string where;
};

// Measures the ways of one product in turn. The first is eager PyTorch's and the others' reference.
void compare_ways(Report& report, const GemmShape& shape, const std::string& dtype,
                  const std::vector<Subject>& ways, Best& best) {
  const auto samples = report.sample(ways);
  const int64_t rows = rows_of(report);
  const double flops = gemm_flops(rows, shape);
  const Fields params = {{"dtype", dtype}, {"rows", rows}, {"k", shape.k}, {"n", shape.n}};
  for (size_t w = 0; w < ways.size(); ++w) {
    const double gflops = flops / samples[w].fastest() * 1e-9;
    if (gflops > best.gflops) {
      best = {gflops, ways[w].name + " " + std::to_string(shape.k) + "x" + std::to_string(shape.n)};
    }
    report.add("gemm", params, {.flops = flops}, samples[w], w == 0 ? nullptr : &samples[0]);
  }
}

void measure_float_gemm(Report& report, const GemmShape& shape, at::ScalarType dtype, Best& best) {
  const int64_t rows = rows_of(report);
  const at::Tensor x = random_tensor({rows, shape.k}, dtype, 1);
  const at::Tensor weight = random_tensor({shape.n, shape.k}, dtype, 2);
  const at::Tensor packed = call("mkldnn::_reorder_linear_weight", {weight, rows});
  compare_ways(report, shape, dtype_name(dtype),
               {{"linear", [&] { at::linear(x, weight); }},
                {"mkldnn plain", [&] { linear_pointwise(x, weight); }},
                {"mkldnn prepacked", [&] { linear_pointwise(x, packed); }}},
               best);
}

// Signed 8-bit activations, which at::_int_mm has, fall to a reference implementation on some CPUs
// and would take minutes: whether they do shows at a small size.
bool int_mm_is_usable(const Report& report) {
  const GemmShape probe = {512, 512};
  const int64_t rows = 64;
  const at::Tensor x = at::zeros({rows, probe.k}, at::kChar);
  const at::Tensor weight = at::zeros({probe.k, probe.n}, at::kChar);
  const auto samples = report.sample({{"probe", [&] { at::_int_mm(x, weight); }}}, 0);
  const double seconds_per_flop = samples[0].median() / gemm_flops(rows, probe);
  // In a smoke run the products are as small as the probe.
  if (report.options().smoke()) return true;
  return seconds_per_flop * gemm_flops(rows_of(report), {3072, 12288}) <
         4 * report.options().row_seconds();
}

void measure_int8_gemm(Report& report, const GemmShape& shape, bool with_int_mm, Best& best) {
  const int64_t rows = rows_of(report);
  const at::Tensor weight =
      random_tensor({shape.n, shape.k}, at::kFloat, 2).mul_(127).to(at::kChar);
  // Unsigned activations around 128: the fast implementations are of unsigned by signed.
  const at::Tensor x =
      random_tensor({rows, shape.k}, at::kFloat, 1).mul_(127).add_(128).to(at::kByte);
  const at::Tensor scale = at::full({shape.n}, 1e-4, at::kFloat);
  const at::Tensor zero_point = at::zeros({shape.n}, at::kInt);
  const at::Tensor packed =
      call("onednn::qlinear_prepack", {weight, std::vector<int64_t>{rows, shape.k}});
  std::vector<Subject> ways;
  const at::Tensor signed_x = x.to(at::kShort).sub_(128).to(at::kChar);
  const at::Tensor transposed = weight.t();
  if (with_int_mm) ways.push_back({"_int_mm", [&] { at::_int_mm(signed_x, transposed); }});
  ways.push_back({"qlinear_pointwise", [&] {
                    call("onednn::qlinear_pointwise",
                         {x, 1.0, 128, packed, scale, zero_point, c10::IValue(), 1.0, 0,
                          at::kBFloat16, "none", c10::List<std::optional<at::Scalar>>(), ""});
                  }});
  compare_ways(report, shape, "int8", ways, best);
}

void measure_gemm(Report& report) {
  std::vector<GemmShape> shapes = {{3072, 9216}};
  if (report.options().full()) shapes.insert(shapes.end(), {{3072, 12288}, {15360, 3072}});
  if (report.options().smoke()) shapes = {{128, 256}};
  const auto summarise = [&](const std::string& dtype, const Best& best) {
    report.summarise("ceilings", "gemm_" + dtype + "_gflops", best.gflops);
    report.summarise("ceilings", "gemm_" + dtype + "_way", best.where);
  };
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    Best best;
    for (const GemmShape& shape : shapes) measure_float_gemm(report, shape, dtype, best);
    summarise(dtype_name(dtype), best);
  }
  try {
    const bool with_int_mm = int_mm_is_usable(report);
    if (!with_int_mm) std::fputs("_int_mm is left out: it is too slow here\n", stderr);
    Best best;
    for (const GemmShape& shape : shapes) measure_int8_gemm(report, shape, with_int_mm, best);
    summarise("int8", best);
  } catch (const std::exception& error) {
    // Older CPUs have no 8-bit products in oneDNN.
    std::fprintf(stderr, "int8 products are left out: %s\n", error.what());
  }
}

void measure_memory(Report& report) {
  // Far larger than any last-level cache's share.
  const int64_t bytes = report.options().smoke() ? int64_t{4} << 20 : int64_t{256} << 20;
  constexpr int64_t kGrain = int64_t{1} << 20;
  const at::Tensor from = at::empty({bytes}, at::kByte);
  const at::Tensor to = at::empty({bytes}, at::kByte);
  auto* source = from.mutable_data_ptr<uint8_t>();
  auto* target = to.mutable_data_ptr<uint8_t>();
  // Touches every page on the thread that will use it.
  at::parallel_for(0, bytes, kGrain, [&](int64_t begin, int64_t end) {
    std::memset(source + begin, 1, static_cast<size_t>(end - begin));
    std::memset(target + begin, 1, static_cast<size_t>(end - begin));
  });

  Work work = {.bytes = 2.0 * static_cast<double>(bytes)};
  const Samples copy = report.measure(
      "copy", {{"bytes", bytes}}, work,
      {"parallel memcpy", [&] {
         at::parallel_for(0, bytes, kGrain, [&](int64_t begin, int64_t end) {
           std::memcpy(target + begin, source + begin, static_cast<size_t>(end - begin));
         });
       }});
  report.summarise("ceilings", "copy_gbytes_per_s", work.bytes / copy.fastest() * 1e-9);

  std::atomic<uint64_t> total = 0;
  work = {.bytes = static_cast<double>(bytes)};
  const Samples read =
      report.measure("read", {{"bytes", bytes}}, work,
                     {"parallel sum", [&] {
                        at::parallel_for(0, bytes / 8, kGrain, [&](int64_t begin, int64_t end) {
                          const auto* words = reinterpret_cast<const uint64_t*>(source);
                          uint64_t sum = 0;
                          for (int64_t i = begin; i < end; ++i) sum += words[i];
                          total += sum;
                        });
                      }});
  report.summarise("ceilings", "read_gbytes_per_s", work.bytes / read.fastest() * 1e-9);
}

}  // namespace

void run_ceilings(Report& report) {
  measure_register_peaks(report);
  measure_gemm(report);
  measure_memory(report);
}

}  // namespace jitflux::bench
