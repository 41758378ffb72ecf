// The parameters of a model as its architecture states them, in the order of the forward pass.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace jitflux {

// Most that a size of an architecture may be; products of two stay far from overflow.
inline constexpr int64_t kMaxWidth = int64_t{1} << 24;

// Takes the name of a parameter, below any prefix, and its shape; sizes of -1 are not known.
using ParameterSink =
    std::function<void(const std::string& name, const std::vector<int64_t>& shape)>;

// Elements of a shape without unknown sizes. Exact up to 2^53, as all counts and bytes here.
inline double elements(const std::vector<int64_t>& shape) {
  double count = 1;
  for (const int64_t size : shape) count *= static_cast<double>(size);
  return count;
}

// Parameters of the architecture `config`, which has a function list_parameters(config, sink).
template <typename Config>
double count_parameters(const Config& config) {
  double count = 0;
  list_parameters(config, [&](const std::string&, const std::vector<int64_t>& shape) {
    count += elements(shape);
  });
  return count;
}

}  // namespace jitflux
