// The parameters that one model takes from a weight file, by name below an optional prefix: sizes
// to infer a configuration from, then requirements, then one report of everything that is wrong.
// No LibTorch here; residency/weight_tensors.h turns parameters into tensors.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "weights/weight_file.h"

namespace jitflux {

// What is wrong with the parameters of a file. Everything is collected before anything is thrown.
struct Mismatch {
  std::vector<std::string> problems;  // sentences
  std::vector<std::string> missing, unexpected, misshaped, mistyped;

  bool empty() const;
  // Adds to misshaped and mistyped what is wrong with a tensor; sizes of -1 match anything.
  void check(const WeightTensor& tensor, const std::vector<int64_t>& shape);
  // Throws kWeightsMismatch "<path>: the weights do not match <model>; ..." (details: path and the
  // four lists).
  [[noreturn]] void raise(const std::string& path, const std::string& model) const;
};

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
  // Throws kWeightsMismatch if anything required is missing or wrong, or anything is unexpected.
  void check();

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
