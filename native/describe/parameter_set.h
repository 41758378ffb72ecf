// The parameters that one model takes from a weight file, by name below an optional prefix: sizes
// to infer a configuration from, then requirements, then one report of everything that is wrong.
// No LibTorch here; residency/weight_tensors.h turns parameters into tensors.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "weights/weight_file.h"

namespace jitflux {

// One more than the highest index in names "<root><index>." of a sorted map; at least one, so that
// a file without any blocks is told which it lacks. Indices from kMaxBlocks on do not count, nor
// those that would leave nearly every block without a tensor: what a few names ask to be listed is
// in proportion to their number.
inline constexpr int64_t kMaxBlocks = 512;
inline constexpr int64_t kMaxEmptyBlocks = 64;  // more than a published model has
template <typename Map>
int64_t count_indices(const Map& names, std::string_view root) {
  int64_t count = 1;
  int64_t limit = kMaxEmptyBlocks;
  for (auto it = names.lower_bound(root); it != names.end() && limit < kMaxBlocks; ++it, ++limit) {
    if (!it->first.starts_with(root)) break;
  }
  for (auto it = names.lower_bound(root); it != names.end(); ++it) {
    std::string_view name = it->first;
    if (!name.starts_with(root)) break;
    name.remove_prefix(root.size());
    const std::string_view digits = name.substr(0, name.find('.'));
    int64_t index = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), index);
    const bool canonical = error == std::errc() && end == digits.data() + digits.size() &&
                           (digits.size() == 1 || digits[0] != '0');
    if (canonical && index >= 0 && index < limit) count = std::max(count, index + 1);
  }
  return count;
}

// What is wrong with the parameters of a file. Everything is collected before anything is thrown.
struct Mismatch {
  std::vector<std::string> problems;  // sentences
  std::vector<std::string> missing, unexpected, misshaped, mistyped;
  // Of modules that the model has not: not used, and no reason to refuse the file.
  std::vector<std::string> extra;

  bool empty() const;  // but for `extra`
  // A tensor that no parameter of the model is. `name`: without the prefix. `modules`: the first
  // parts of the names of the model's parameters.
  void not_required(const WeightTensor& tensor, std::string_view name,
                    const std::set<std::string, std::less<>>& modules);
  // Adds to misshaped and mistyped what is wrong with a tensor; sizes of -1 match anything.
  void check(const WeightTensor& tensor, const std::vector<int64_t>& shape);
  // Throws kWeightsMismatch "<path>: the weights do not match <model>; ..." (details: path and the
  // four lists, which it takes); kUnsupportedFormat for quantised weights and adapters, which their
  // names tell.
  [[noreturn]] void raise(const std::string& path, const std::string& model) &&;
};

// The first part of a parameter's name: "x_embedder" of "x_embedder.weight".
std::string_view module_of(std::string_view name);

// Throws kUnsupportedFormat if a tensor's name says that its file holds quantised weights, or an
// adapter.
void refuse_other_kind(const std::string& path, std::string_view name);

class ParameterSet {
 public:
  static constexpr int64_t kUnknown = -1;  // a size that no tensor of the file tells

  // Finds the prefix: what stands before one of the `landmarks`, names of which a model of this
  // kind has exactly one. Throws kWeightsMismatch if the file has none, or several models.
  static ParameterSet locate(std::shared_ptr<const WeightFile> file, std::string model,
                             const std::vector<std::string>& landmarks);

  // Whether any name is one of the landmarks, below any prefix.
  static bool has_landmark(const WeightFile& file, const std::vector<std::string>& landmarks);

  const std::shared_ptr<const WeightFile>& file() const { return file_; }
  const std::string& prefix() const { return prefix_; }

  // Names here and below are without the prefix.
  const WeightTensor* find(std::string_view name) const;
  bool any_below(std::string_view root) const;
  // A size of a tensor of the right rank, else kUnknown.
  int64_t size(std::string_view name, size_t rank, size_t dimension) const;
  // One more than the highest index in names "<root><index>."; at least one, so that a file that
  // lacks all blocks is told their names. Gaps show up as missing parameters.
  int64_t count(std::string_view root) const;

  // The model needs this parameter; sizes of kUnknown match anything.
  void require(const std::string& name, const std::vector<int64_t>& shape);
  // The model does not need what starts with `root`, and nobody need be told.
  void ignore(const std::string& root) { ignored_.push_back(root); }
  void problem(std::string sentence) { mismatch_.problems.push_back(std::move(sentence)); }
  // Throws kWeightsMismatch if anything required is missing or wrong, or if there is anything else
  // in a module of the model's; kUnsupportedFormat as Mismatch::raise.
  void check();
  // Names of tensors that are no part of the model.
  const std::vector<std::string>& extra() const { return mismatch_.extra; }

  const WeightTensor& at(const std::string& name) const;  // a parameter that was required
  uint64_t required_bytes() const;
  uint64_t required_elements() const;

 private:
  std::shared_ptr<const WeightFile> file_;
  std::string model_;
  std::string prefix_;
  std::map<std::string_view, const WeightTensor*> inside_;
  std::set<std::string, std::less<>> required_;
  std::vector<std::string> ignored_;
  Mismatch mismatch_;
};

}  // namespace jitflux
