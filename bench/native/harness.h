// What the sections share: interleaved timing, the rows they produce, and the JSON document.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace jitflux::bench {

// What one call of a measured function amounts to, for rates; a zero is left out of the document.
struct Work {
  double flops = 0;
  double bytes = 0;  // that must move at least, whatever an implementation really moves
  double tokens = 0;
};

struct Subject {
  std::string name;
  std::function<void()> run;
};

// Seconds of one call of a subject, sample by sample.
struct Samples {
  std::string name;
  std::vector<double> seconds;

  double median() const;
  double fastest() const;
};

// What a row says about one subject.
struct Measurement {
  std::string name;
  double seconds = 0;  // median
  Work work;
};

// Reference seconds / our seconds, pair by pair: above 1, ours is faster.
struct Ratio {
  double median = 0;
  double low = 0;   // 10th percentile
  double high = 0;  // 90th percentile
  int64_t samples = 0;
};

using Value = std::variant<int64_t, double, std::string>;
using Fields = std::vector<std::pair<std::string, Value>>;

struct Row {
  std::string section;
  std::string name;
  Fields params;
  Measurement ours;
  std::optional<Measurement> reference;
  std::optional<Ratio> ratio;
  // Largest absolute difference of the two results over the reference's largest value, where the
  // section compares them: it shows that both computed the same thing.
  std::optional<double> difference;
};

// How much is measured. kSmoke has tiny shapes, for which no figure means anything: it shows that
// every section runs.
enum class Mode { kSmoke, kQuick, kFull };

const char* mode_name(Mode mode);  // "smoke", "quick", "full"

// How the program was asked to measure.
struct Options {
  Mode mode = Mode::kFull;
  // Without an arena malloc maps every large result anew. Operators that allocate their results, as
  // eager ATen's do, are then measured by their page faults: eager's LayerNorm and modulation at
  // 4608 x 3072 in float32 took 14 times as long as ours, and 2.7 times with kept memory. So the
  // references normally get what the transformer's passes have; this shows the other.
  bool fresh_memory = false;
  // Time for the samples of one row; one with slow subjects takes longer, kMinimumSamples are
  // always taken.
  double row_seconds() const {
    return mode == Mode::kFull ? 6.0 : mode == Mode::kQuick ? 1.5 : 0.01;
  }
  bool smoke() const { return mode == Mode::kSmoke; }
  bool full() const { return mode == Mode::kFull; }
};

constexpr int64_t kMinimumSamples = 3;

// Collects rows and the figures that summarise a section; prints each row's outcome to stderr.
class Report {
 public:
  explicit Report(Options options) : options_(options) {}

  const Options& options() const { return options_; }

  // The section that the following rows belong to.
  void begin_section(std::string name);

  // Times the subjects in turn, so that what else happens on the machine hits all of them alike:
  // each has the same number of samples, and sample i of all was taken in round i. Takes `share` of
  // a row's time. Each subject is called once or twice beforehand.
  std::vector<Samples> sample(const std::vector<Subject>& subjects, double share = 1.0) const;

  // Measures `ours` against `reference` and adds the row. `difference`, if any, is called when both
  // have run, for Row::difference.
  void compare(std::string name, Fields params, const Work& work, const Subject& ours,
               const Subject& reference, const std::function<double()>& difference = nullptr);

  // Measures `ours` alone, taking `share` of a row's time, adds the row and returns the samples.
  Samples measure(std::string name, Fields params, const Work& work, const Subject& ours,
                  double share = 1.0);

  // Adds a row of samples that sample() took.
  void add(std::string name, Fields params, const Work& work, const Samples& ours,
           const Samples* reference, std::optional<double> difference = std::nullopt);

  // Adds `value` as summaries[group][name].
  void summarise(const std::string& group, std::string name, Value value);

  // The document: {"section", <header's fields>, "rows": [...], <summaries>}.
  std::string json(const std::string& section, const Fields& header) const;

 private:
  Options options_;
  std::string section_;
  std::vector<Row> rows_;
  std::vector<std::pair<std::string, Fields>> summaries_;
};

// One JSON object on one line.
std::string json_object(const Fields& fields);

// Value below which a share p of the samples lies, interpolated.
double quantile(std::vector<double> samples, double p);

// Row::difference of two results of the same shape.
double relative_difference(const at::Tensor& ours, const at::Tensor& reference);

// Uniform random values in [-1, 1), the same in every run; made in parallel, hence not LibTorch's.
at::Tensor random_tensor(at::IntArrayRef shape, at::ScalarType dtype, uint64_t seed);

// "float32", "bfloat16", ...
std::string dtype_name(at::ScalarType dtype);

}  // namespace jitflux::bench
