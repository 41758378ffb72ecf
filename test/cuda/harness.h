// What the kernel tests share: device buffers with canaries, cases that run a kernel several times
// and insist on the same bits, comparison with references, and the report.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kernels/device_kernels.h"

namespace jitflux::kernel_tests {

using kernels::Element;

enum class Kind { kFloat32, kBFloat16, kFloat16, kInt32 };

Kind kind_of(Element type);
size_t size_of(Kind kind);
const char* name_of(Kind kind);

// `value` in the nearest value of the kind (ties to even), and its spacing of values there.
double rounded(Kind kind, double value);
double spacing(Kind kind, double value);

// Reproducible on every machine, unlike the standard's distributions.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  // In [0, n).
  int64_t below(int64_t n) { return static_cast<int64_t>(engine_() % static_cast<uint64_t>(n)); }
  double uniform() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }
  double normal();
  std::vector<double> normals(int64_t count, double mean = 0.0, double deviation = 1.0);
  // 0 .. n - 1 in random order.
  std::vector<int32_t> permutation(int64_t n);

 private:
  std::mt19937_64 engine_;
};

// An array in device memory. `offset` elements of its allocation come before it.
class Buffer {
 public:
  Buffer(Kind kind, std::vector<double> values, bool is_output, int64_t offset);
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  void* data() const;
  template <typename T>
  T* as() const {
    return static_cast<T*>(data());
  }
  // As uploaded, exactly.
  double input(int64_t i) const { return decode(initial_, i); }
  // After the case has run.
  double output(int64_t i) const { return decode(result_, i); }
  const std::vector<unsigned char>& output_bytes() const { return result_; }
  const unsigned char* input_bytes() const { return initial_.data(); }
  Kind kind() const { return kind_; }
  int64_t size() const { return static_cast<int64_t>(initial_.size() / size_of(kind_)); }
  bool is_output() const { return is_output_; }

  void upload();
  // Throws if something around the array was written.
  std::vector<unsigned char> download() const;
  void keep(std::vector<unsigned char> result) { result_ = std::move(result); }

 private:
  double decode(const std::vector<unsigned char>& bytes, int64_t i) const;

  Kind kind_;
  bool is_output_;
  size_t before_;  // bytes of canary
  size_t after_;
  std::vector<unsigned char> initial_;
  std::vector<unsigned char> result_;
  unsigned char* allocation_ = nullptr;
};

// Worst error of one kernel in one type, as a multiple of `unit`.
struct Outcome {
  std::string unit;
  double bound = 0;
  double worst = 0;
  std::string where;
  int64_t values = 0;
};

class Report {
 public:
  // The tests of a kernel begin; prints the outcome of those before.
  void begin(const std::string& kernel);
  // An error measured in `unit` of value i; beyond `bound` (or NaN) it is a failure.
  void measure(const std::string& group, const char* unit, double bound, double error,
               const std::string& where, int64_t i);
  void fail(const std::string& message);
  bool passed() const { return failures_ == 0; }
  // After the last kernel.
  void end() { begin({}); }
  std::string json() const;

 private:
  struct Kernel {
    std::map<std::string, Outcome> outcomes;
    std::vector<std::string> failures;
    int64_t failure_count = 0;
  };

  Kernel& current();
  static void print(const std::string& name, const Kernel& kernel);

  std::string kernel_;
  std::vector<std::string> order_;
  std::map<std::string, Kernel> kernels_;
  int64_t failures_ = 0;
};

// One call of a kernel with its buffers.
class Case {
 public:
  // `where` describes the shape in failures. `offset`: elements by which every activation and
  // vector is moved off its alignment.
  Case(Report& report, std::string where, int64_t offset = 0)
      : report_(report), where_(std::move(where)), offset_(offset) {}

  Buffer& input(Kind kind, std::vector<double> values);
  Buffer& input(const std::vector<int32_t>& values);
  // Filled with NaNs; what a kernel leaves alone stays so.
  Buffer& output(Kind kind, int64_t size);
  // Read and written.
  Buffer& in_out(Kind kind, std::vector<double> values);

  // Runs the kernel kRuns times, in the emulation in different orders of threads, from the same
  // buffers; checks that outputs have the same bits each time, inputs and canaries their old ones.
  // False if that is not so.
  bool run(const std::function<void()>& kernel);

  // |output - reference| in units of the last place of 16-bit types, or for float32 relative to
  // `magnitude`, the sum of the magnitudes that the reference is made of. For 16-bit types float32
  // arithmetic's own error is taken off first.
  void compare(const Buffer& buffer, int64_t i, double reference, double magnitude,
               double ulps = 1.0);
  // The same against a CPU kernel's result.
  void compare_cpu(const Buffer& buffer, int64_t i, double reference, double magnitude);
  void expect_equal(const Buffer& buffer, int64_t i, double reference);
  void expect_same_bits(const std::vector<unsigned char>& a, const std::vector<unsigned char>& b,
                        const std::string& what);
  const std::string& where() const { return where_; }

 private:
  Buffer& add(std::unique_ptr<Buffer> buffer);
  void compare_within(const std::string& group, const Buffer& buffer, int64_t i, double reference,
                      double magnitude, double ulps, double relative);

  Report& report_;
  std::string where_;
  int64_t offset_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
};

inline constexpr int kRuns = 4;
// Of float32 results, per magnitude.
inline constexpr double kFloatBound = 1e-6;

// First seed of the emulation's schedules.
void set_base_seed(uint64_t seed);

// Throws std::runtime_error with the runtime's message.
void check_runtime(int status, const char* what);

}  // namespace jitflux::kernel_tests
