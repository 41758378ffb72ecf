#include "harness.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "kernels/cuda/cuda_api.cuh"

namespace jitflux::kernel_tests {

namespace {

constexpr unsigned char kCanary = 0x5A;
constexpr unsigned char kUnwritten = 0xFF;  // NaN in every type, -1 as an integer
// Differences below this count as none: exponentials overflow there, subnormal numbers lose digits.
constexpr double kNothing = 0x1p-120;
constexpr size_t kMaxFailures = 5;  // told per kernel
#if defined(JIT_FLUX_CUDA_EMULATION)
// Its allocations have canaries, which the address sanitizer knows; ours would hide them.
constexpr size_t kCanaryBytes = 0;
#else
constexpr size_t kCanaryBytes = 256;
#endif

uint64_t base_seed = 1;

void set_schedule(int run) {
#if defined(JIT_FLUX_CUDA_EMULATION)
  cuda_emulation::set_schedule(run == 0 ? 0 : base_seed + static_cast<uint64_t>(run));
#else
  static_cast<void>(run);
#endif
}

uint16_t bfloat16_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if (std::isnan(value)) return 0x7FC0;
  return static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}
float bfloat16_value(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// The compiler's conversions, which owe nothing to CUDA's or the emulation's.
uint16_t float16_bits(float value) {
  const auto half = static_cast<_Float16>(value);
  uint16_t bits;
  std::memcpy(&bits, &half, sizeof bits);
  return bits;
}
float float16_value(uint16_t bits) {
  _Float16 half;
  std::memcpy(&half, &bits, sizeof half);
  return static_cast<float>(half);
}

void encode(Kind kind, double value, unsigned char* to) {
  const auto single = static_cast<float>(value);
  switch (kind) {
    case Kind::kFloat32:
      std::memcpy(to, &single, sizeof single);
      return;
    case Kind::kBFloat16:
    case Kind::kFloat16: {
      const uint16_t bits = kind == Kind::kBFloat16 ? bfloat16_bits(single) : float16_bits(single);
      std::memcpy(to, &bits, sizeof bits);
      return;
    }
    case Kind::kInt32: {
      const auto integer = static_cast<int32_t>(value);
      std::memcpy(to, &integer, sizeof integer);
      return;
    }
  }
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c == '\n' ? ' ' : c;
  }
  return out + "\"";
}

std::string number(double value) {
  if (!std::isfinite(value)) return "null";
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", value);
  return text;
}

}  // namespace

void set_base_seed(uint64_t seed) { base_seed = seed; }

void check_runtime(int status, const char* what) {
  if (status == 0) return;
  throw std::runtime_error(std::string(what) + ": " +
                           cudaGetErrorString(static_cast<cudaError_t>(status)));
}

Kind kind_of(Element type) {
  switch (type) {
    case Element::kFloat32:
      return Kind::kFloat32;
    case Element::kBFloat16:
      return Kind::kBFloat16;
    case Element::kFloat16:
      return Kind::kFloat16;
  }
  throw std::logic_error("type");
}

size_t size_of(Kind kind) {
  return kind == Kind::kBFloat16 || kind == Kind::kFloat16 ? sizeof(uint16_t) : sizeof(float);
}

const char* name_of(Kind kind) {
  switch (kind) {
    case Kind::kFloat32:
      return "float32";
    case Kind::kBFloat16:
      return "bfloat16";
    case Kind::kFloat16:
      return "float16";
    case Kind::kInt32:
      return "int32";
  }
  return "";
}

double rounded(Kind kind, double value) {
  const auto single = static_cast<float>(value);
  switch (kind) {
    case Kind::kBFloat16:
      return bfloat16_value(bfloat16_bits(single));
    case Kind::kFloat16:
      return float16_value(float16_bits(single));
    default:
      return single;
  }
}

double spacing(Kind kind, double value) {
  const int digits = kind == Kind::kBFloat16 ? 8 : kind == Kind::kFloat16 ? 11 : 24;
  const int lowest = kind == Kind::kFloat16 ? -14 : -126;  // exponent of the least normal value
  int exponent = 0;
  std::frexp(value, &exponent);
  exponent = value == 0.0 ? lowest : std::max(exponent - 1, lowest);
  return std::ldexp(1.0, exponent - digits + 1);
}

double Random::normal() {
  constexpr double kTau = 6.283185307179586;
  return std::sqrt(-2.0 * std::log(1.0 - uniform())) * std::cos(kTau * uniform());
}

std::vector<double> Random::normals(int64_t count, double mean, double deviation) {
  std::vector<double> values(static_cast<size_t>(count));
  for (double& value : values) value = mean + deviation * normal();
  return values;
}

std::vector<int32_t> Random::permutation(int64_t n) {
  std::vector<int32_t> list(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) list[i] = static_cast<int32_t>(i);
  for (int64_t i = n - 1; i > 0; --i) std::swap(list[i], list[below(i + 1)]);
  return list;
}

// ---- buffers

Buffer::Buffer(Kind kind, std::vector<double> values, bool is_output, int64_t offset)
    : kind_(kind),
      is_output_(is_output),
      before_(kCanaryBytes + static_cast<size_t>(offset) * size_of(kind)),
      after_(kCanaryBytes),
      initial_(values.size() * size_of(kind)) {
  for (size_t i = 0; i < values.size(); ++i) {
    encode(kind, values[i], initial_.data() + i * size_of(kind));
  }
  const size_t bytes = std::max<size_t>(1, before_ + initial_.size() + after_);
  check_runtime(cudaMalloc(reinterpret_cast<void**>(&allocation_), bytes), "cudaMalloc");
}

Buffer::~Buffer() { cudaFree(allocation_); }

void* Buffer::data() const { return allocation_ + before_; }

void Buffer::upload() {
  std::vector<unsigned char> all(before_ + initial_.size() + after_, kCanary);
  std::copy(initial_.begin(), initial_.end(), all.begin() + static_cast<ptrdiff_t>(before_));
  check_runtime(cudaMemcpy(allocation_, all.data(), all.size(), cudaMemcpyHostToDevice), "upload");
}

std::vector<unsigned char> Buffer::download() const {
  std::vector<unsigned char> all(before_ + initial_.size() + after_);
  check_runtime(cudaMemcpy(all.data(), allocation_, all.size(), cudaMemcpyDeviceToHost),
                "download");
  const auto begin = all.begin() + static_cast<ptrdiff_t>(before_);
  const auto end = begin + static_cast<ptrdiff_t>(initial_.size());
  const auto spoilt = [](unsigned char byte) { return byte != kCanary; };
  if (std::any_of(all.begin(), begin, spoilt)) throw std::runtime_error("write before a buffer");
  if (std::any_of(end, all.end(), spoilt)) throw std::runtime_error("write after a buffer");
  return {begin, end};
}

double Buffer::decode(const std::vector<unsigned char>& bytes, int64_t i) const {
  const unsigned char* from = bytes.data() + static_cast<size_t>(i) * size_of(kind_);
  switch (kind_) {
    case Kind::kFloat32: {
      float value;
      std::memcpy(&value, from, sizeof value);
      return value;
    }
    case Kind::kInt32: {
      int32_t value;
      std::memcpy(&value, from, sizeof value);
      return value;
    }
    case Kind::kBFloat16:
    case Kind::kFloat16: {
      uint16_t value;
      std::memcpy(&value, from, sizeof value);
      return kind_ == Kind::kBFloat16 ? bfloat16_value(value) : float16_value(value);
    }
  }
  return 0.0;
}

// ---- report

void Report::measure(const std::string& group, const char* unit, double bound, double error,
                     const std::string& where, int64_t i) {
  Outcome& outcome = current().outcomes[group];
  const bool first = outcome.values++ == 0;
  if (first) outcome.unit = unit;
  outcome.bound = std::max(outcome.bound, bound);
  // Written so that NaN takes the long way.
  if (error <= outcome.worst && error <= bound && !first) return;
  const std::string place = where + " [" + std::to_string(i) + "]";
  if (first || !(error <= outcome.worst)) {
    outcome.worst = std::isnan(error) ? std::numeric_limits<double>::infinity() : error;
    outcome.where = place;
  }
  if (!(error <= bound)) {
    fail(group + " " + place + ": " + number(error) + " " + unit + ", allowed " + number(bound));
  }
}

void Report::fail(const std::string& message) {
  Kernel& kernel = current();
  ++failures_;
  ++kernel.failure_count;
  if (kernel.failures.size() < kMaxFailures) kernel.failures.push_back(message);
}

void Report::begin(const std::string& kernel) {
  if (!kernel_.empty()) print(kernel_, current());
  kernel_ = kernel;
}

Report::Kernel& Report::current() {
  if (kernels_.find(kernel_) == kernels_.end()) order_.push_back(kernel_);
  return kernels_[kernel_];
}

void Report::print(const std::string& name, const Kernel& kernel) {
  std::printf("%-20s %s", name.c_str(), kernel.failure_count == 0 ? "ok  " : "FAIL");
  for (const auto& [group, outcome] : kernel.outcomes) {
    std::printf("  %s %s of %s %s", group.c_str(), number(outcome.worst).c_str(),
                number(outcome.bound).c_str(), outcome.unit.c_str());
  }
  std::printf("\n");
  for (const std::string& failure : kernel.failures) std::printf("  %s\n", failure.c_str());
  const auto told = static_cast<int64_t>(kernel.failures.size());
  if (kernel.failure_count > told) {
    std::printf("  and %lld more\n", static_cast<long long>(kernel.failure_count - told));
  }
  std::fflush(stdout);
}

std::string Report::json() const {
  std::string out = "{\n  \"passed\": ";
  out += passed() ? "true" : "false";
  out += ",\n  \"kernels\": [";
  bool first_kernel = true;
  for (const std::string& name : order_) {
    const Kernel& kernel = kernels_.at(name);
    out += first_kernel ? "\n" : ",\n";
    first_kernel = false;
    out += "    {\"name\": " + quoted(name) + ", \"failures\": [";
    for (size_t i = 0; i < kernel.failures.size(); ++i) {
      out += (i == 0 ? "" : ", ") + quoted(kernel.failures[i]);
    }
    out += "], \"results\": [";
    bool first = true;
    for (const auto& [group, outcome] : kernel.outcomes) {
      out += first ? "" : ", ";
      first = false;
      out += "{\"group\": " + quoted(group) + ", \"worst\": " + number(outcome.worst) +
             ", \"bound\": " + number(outcome.bound) + ", \"unit\": " + quoted(outcome.unit) +
             ", \"values\": " + std::to_string(outcome.values) +
             ", \"where\": " + quoted(outcome.where) + "}";
    }
    out += "]}";
  }
  return out + "\n  ]\n}\n";
}

// ---- cases

Buffer& Case::add(std::unique_ptr<Buffer> buffer) {
  buffers_.push_back(std::move(buffer));
  return *buffers_.back();
}

Buffer& Case::input(Kind kind, std::vector<double> values) {
  return add(std::make_unique<Buffer>(kind, std::move(values), false, offset_));
}

Buffer& Case::input(const std::vector<int32_t>& values) {
  // Integers are never read as vectors: their alignment is of no interest.
  return add(std::make_unique<Buffer>(Kind::kInt32,
                                      std::vector<double>(values.begin(), values.end()), false, 0));
}

Buffer& Case::output(Kind kind, int64_t size) {
  const double unwritten = kind == Kind::kInt32 ? -1.0 : std::numeric_limits<double>::quiet_NaN();
  return add(std::make_unique<Buffer>(kind,
                                      std::vector<double>(static_cast<size_t>(size), unwritten),
                                      true, kind == Kind::kInt32 ? 0 : offset_));
}

Buffer& Case::in_out(Kind kind, std::vector<double> values) {
  return add(std::make_unique<Buffer>(kind, std::move(values), true, offset_));
}

bool Case::run(const std::function<void()>& kernel) {
  try {
    for (int run = 0; run < kRuns; ++run) {
      set_schedule(run);
      for (const auto& buffer : buffers_) buffer->upload();
      kernel();
      check_runtime(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
      for (size_t i = 0; i < buffers_.size(); ++i) {
        Buffer& buffer = *buffers_[i];
        std::vector<unsigned char> result = buffer.download();
        if (!buffer.is_output()) {
          if (!result.empty() &&
              std::memcmp(result.data(), buffer.input_bytes(), result.size()) != 0) {
            throw std::runtime_error("input " + std::to_string(i) + " was changed");
          }
        } else if (run == 0) {
          buffer.keep(std::move(result));
        } else if (result != buffer.output_bytes()) {
          throw std::runtime_error("run " + std::to_string(run) + " gave another output " +
                                   std::to_string(i));
        }
      }
    }
    return true;
  } catch (const std::exception& error) {
    report_.fail(where_ + ": " + error.what());
    return false;
  }
}

void Case::compare_within(const std::string& group, const Buffer& buffer, int64_t i,
                          double reference, double magnitude, double ulps, double relative) {
  const double value = buffer.output(i);
  const bool is_float = buffer.kind() == Kind::kFloat32;
  const double bound = is_float ? relative : ulps;
  // Beyond the type's range: infinities, and NaN for NaN.
  const double nearest = rounded(buffer.kind(), reference);
  double error;
  if (std::isnan(reference) || std::isinf(nearest)) {
    const bool same = std::isnan(reference) ? std::isnan(value) : value == nearest;
    error = same ? 0.0 : std::numeric_limits<double>::infinity();
  } else if (is_float) {
    const double difference = std::fabs(value - reference);
    error = difference <= kNothing ? 0.0 : difference / magnitude;
  } else {
    const double difference = std::fabs(value - reference) - relative * magnitude - kNothing;
    error =
        std::isnan(value) ? value : std::max(0.0, difference) / spacing(buffer.kind(), reference);
  }
  report_.measure(group, is_float ? "relative" : "ulp", bound, error, where_, i);
}

void Case::compare(const Buffer& buffer, int64_t i, double reference, double magnitude,
                   double ulps) {
  compare_within(name_of(buffer.kind()), buffer, i, reference, magnitude, ulps, kFloatBound);
}

void Case::compare_cpu(const Buffer& buffer, int64_t i, double reference, double magnitude) {
  compare_within(std::string(name_of(buffer.kind())) + " vs CPU", buffer, i, reference, magnitude,
                 1.0, 2 * kFloatBound);
}

void Case::expect_equal(const Buffer& buffer, int64_t i, double reference) {
  report_.measure("exact", "difference", 0.0, std::fabs(buffer.output(i) - reference), where_, i);
}

void Case::expect_same_bits(const std::vector<unsigned char>& a,
                            const std::vector<unsigned char>& b, const std::string& what) {
  if (a != b) report_.fail(where_ + ": " + what);
}

}  // namespace jitflux::kernel_tests
