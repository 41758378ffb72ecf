#include "harness.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>

#include "runtime/memory_arena.h"
#include "runtime/parallel.h"

namespace jitflux::bench {

namespace {

using Clock = std::chrono::steady_clock;

// A sample is made of so many calls that it lasts at least this long: beside it the clock's
// resolution and one interrupt are small.
constexpr double kSampleSeconds = 1e-3;

double seconds_of(const std::function<void()>& f, int64_t calls) {
  const auto start = Clock::now();
  for (int64_t i = 0; i < calls; ++i) f();
  return std::chrono::duration<double>(Clock::now() - start).count() / static_cast<double>(calls);
}

std::string quote(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    // Names of ours have no control characters, but an error's text may.
    out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return out + '"';
}

std::string number(double value) {
  if (!std::isfinite(value)) return "null";
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%.6g", value);
  return buffer;
}

std::string text_of(const Value& value) {
  if (const auto* integer = std::get_if<int64_t>(&value)) return std::to_string(*integer);
  if (const auto* real = std::get_if<double>(&value)) return number(*real);
  return quote(std::get<std::string>(value));
}

std::string members(const Fields& fields) {
  std::string out;
  for (const auto& [name, value] : fields) {
    if (!out.empty()) out += ", ";
    out += quote(name) + ": " + text_of(value);
  }
  return out;
}

Fields fields_of(const Measurement& m) {
  Fields fields = {{"name", m.name}, {"seconds", m.seconds}};
  if (m.work.flops > 0) {
    fields.emplace_back("gflops", m.work.flops / m.seconds * 1e-9);
    fields.emplace_back("flops", m.work.flops);
  }
  if (m.work.bytes > 0) {
    fields.emplace_back("gbytes_per_s", m.work.bytes / m.seconds * 1e-9);
    fields.emplace_back("bytes", m.work.bytes);
  }
  if (m.work.tokens > 0) {
    fields.emplace_back("ns_per_token", m.seconds / m.work.tokens * 1e9);
  }
  return fields;
}

std::string json_of(const Row& row) {
  std::string out = "{\"section\": " + quote(row.section) + ", \"name\": " + quote(row.name) +
                    ", \"params\": " + json_object(row.params) +
                    ", \"ours\": " + json_object(fields_of(row.ours));
  if (row.reference) out += ", \"reference\": " + json_object(fields_of(*row.reference));
  if (row.ratio) {
    out += ", \"ratio\": " + json_object({{"median", row.ratio->median},
                                          {"low", row.ratio->low},
                                          {"high", row.ratio->high},
                                          {"samples", row.ratio->samples}});
  }
  if (row.difference) out += ", \"difference\": " + number(*row.difference);
  return out + "}";
}

// One line for a person who waits.
void print_progress(const Row& row) {
  std::string params;
  for (const auto& [name, value] : row.params) params += " " + name + "=" + text_of(value);
  const auto rates = [](const Measurement& m) {
    char buffer[96];
    if (m.work.flops > 0) {
      std::snprintf(buffer, sizeof buffer, "%.4g ms, %.4g GFLOP/s", m.seconds * 1e3,
                    m.work.flops / m.seconds * 1e-9);
    } else if (m.work.bytes > 0) {
      std::snprintf(buffer, sizeof buffer, "%.4g ms, %.4g GB/s", m.seconds * 1e3,
                    m.work.bytes / m.seconds * 1e-9);
    } else {
      std::snprintf(buffer, sizeof buffer, "%.4g ms", m.seconds * 1e3);
    }
    return m.name + " " + buffer;
  };
  std::fprintf(stderr, "%s %s%s: %s", row.section.c_str(), row.name.c_str(), params.c_str(),
               rates(row.ours).c_str());
  if (row.reference) std::fprintf(stderr, "; %s", rates(*row.reference).c_str());
  if (row.ratio) {
    std::fprintf(stderr, "; x%.3g (%.3g to %.3g, %lld pairs)", row.ratio->median, row.ratio->low,
                 row.ratio->high, static_cast<long long>(row.ratio->samples));
  }
  if (row.difference) std::fprintf(stderr, "; difference %.2g", *row.difference);
  std::fputc('\n', stderr);
}

}  // namespace

std::string json_object(const Fields& fields) { return '{' + members(fields) + '}'; }

const char* mode_name(Mode mode) {
  switch (mode) {
    case Mode::kSmoke:
      return "smoke";
    case Mode::kQuick:
      return "quick";
    case Mode::kFull:
      return "full";
  }
  return "";
}

double Samples::median() const { return quantile(seconds, 0.5); }

double Samples::fastest() const { return quantile(seconds, 0); }

double quantile(std::vector<double> samples, double p) {
  std::sort(samples.begin(), samples.end());
  const double at = p * static_cast<double>(samples.size() - 1);
  const auto below = static_cast<size_t>(at);
  const size_t above = std::min(below + 1, samples.size() - 1);
  return samples[below] + (at - static_cast<double>(below)) * (samples[above] - samples[below]);
}

void Report::begin_section(std::string name) { section_ = std::move(name); }

std::vector<Samples> Report::sample(const std::vector<Subject>& subjects, double share) const {
  const double budget = options_.row_seconds() * share;
  const MemoryArena arena;
  const MemoryArena::Scope scope(options_.fresh_memory ? nullptr : &arena);
  std::vector<Samples> samples;
  std::vector<int64_t> calls;
  double round = 0;  // seconds that one sample of every subject takes
  for (const Subject& subject : subjects) {
    // Twice if it is quick: the first call may allocate, or let oneDNN generate its code.
    double once = seconds_of(subject.run, 1);
    if (once < budget / 16) once = seconds_of(subject.run, 1);
    samples.push_back({subject.name, {}});
    calls.push_back(std::max<int64_t>(1, static_cast<int64_t>(std::ceil(kSampleSeconds / once))));
    round += once * static_cast<double>(calls.back());
  }
  const auto rounds = std::max(kMinimumSamples, static_cast<int64_t>(std::floor(budget / round)));
  for (int64_t i = 0; i < rounds; ++i) {
    for (size_t s = 0; s < subjects.size(); ++s) {
      samples[s].seconds.push_back(seconds_of(subjects[s].run, calls[s]));
    }
  }
  return samples;
}

void Report::add(std::string name, Fields params, const Work& work, const Samples& ours,
                 const Samples* reference, std::optional<double> difference) {
  Row row = {section_, std::move(name), std::move(params), {ours.name, ours.median(), work}, {},
             {},       difference};
  if (reference != nullptr) {
    std::vector<double> ratios;
    for (size_t i = 0; i < ours.seconds.size(); ++i) {
      ratios.push_back(reference->seconds[i] / ours.seconds[i]);
    }
    row.reference = Measurement{reference->name, reference->median(), work};
    row.ratio = Ratio{quantile(ratios, 0.5), quantile(ratios, 0.1), quantile(ratios, 0.9),
                      static_cast<int64_t>(ratios.size())};
  }
  print_progress(row);
  rows_.push_back(std::move(row));
}

void Report::compare(std::string name, Fields params, const Work& work, const Subject& ours,
                     const Subject& reference, const std::function<double()>& difference) {
  const auto samples = sample({ours, reference});
  add(std::move(name), std::move(params), work, samples[0], &samples[1],
      difference ? std::optional<double>(difference()) : std::nullopt);
}

Samples Report::measure(std::string name, Fields params, const Work& work, const Subject& ours,
                        double share) {
  auto samples = sample({ours}, share);
  add(std::move(name), std::move(params), work, samples[0], nullptr);
  return std::move(samples[0]);
}

void Report::summarise(const std::string& group, std::string name, Value value) {
  auto it = std::find_if(summaries_.begin(), summaries_.end(),
                         [&](const auto& summary) { return summary.first == group; });
  if (it == summaries_.end()) it = summaries_.insert(it, {group, {}});
  it->second.emplace_back(std::move(name), std::move(value));
}

std::string Report::json(const std::string& section, const Fields& header) const {
  std::string out = "{\"section\": " + quote(section) + ", " + members(header) + ",\n\"rows\": [";
  for (size_t i = 0; i < rows_.size(); ++i) {
    out += i == 0 ? "\n  " : ",\n  ";
    out += json_of(rows_[i]);
  }
  out += "\n]";
  for (const auto& [group, fields] : summaries_)
    out += ",\n" + quote(group) + ": " + json_object(fields);
  return out + "}\n";
}

double relative_difference(const at::Tensor& ours, const at::Tensor& reference) {
  const at::Tensor expected = reference.to(at::kDouble);
  const double scale = expected.abs().max().item<double>();
  const double error = (ours.to(at::kDouble) - expected).abs().max().item<double>();
  return scale > 0 ? error / scale : error;
}

at::Tensor random_tensor(at::IntArrayRef shape, at::ScalarType dtype, uint64_t seed) {
  at::Tensor values = at::empty(shape, at::kFloat);
  float* out = values.mutable_data_ptr<float>();
  parallel_rows(values.numel(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      // splitmix64 of the position.
      uint64_t x = seed * 0xd1342543de82ef95u + static_cast<uint64_t>(i) * 0x9e3779b97f4a7c15u;
      x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
      x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
      out[i] = static_cast<float>(static_cast<int64_t>(x ^ (x >> 31)) >> 40) * 0x1p-23f;
    }
  });
  return values.to(dtype);
}

std::string dtype_name(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat:
      return "float32";
    case at::kBFloat16:
      return "bfloat16";
    case at::kChar:
      return "int8";
    default:
      return at::toString(dtype);
  }
}

}  // namespace jitflux::bench
