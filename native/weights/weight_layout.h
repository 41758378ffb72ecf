// Where everything lies in a weight file that is yet to be written. All of it follows from names,
// types and shapes, so that tensors can be written in any number of sittings, each at its place.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "weights/weight_file.h"

namespace jitflux {

struct TensorSpec {
  std::string name;
  WeightDType dtype = WeightDType::kFloat32;
  std::vector<int64_t> shape;

  uint64_t nbytes() const;
};

struct FilePiece {
  uint64_t offset = 0;
  std::string bytes;
};

class WeightLayout {
 public:
  virtual ~WeightLayout() = default;

  uint64_t file_size() const { return file_size_; }
  // Positions of the specs in the order of their data in the file.
  const std::vector<size_t>& order() const { return order_; }
  uint64_t data_offset(size_t tensor) const { return data_offsets_[tensor]; }

  // All bytes of the file that are not tensor data; they depend on the data only through their
  // CRC-32, one per spec.
  virtual std::vector<FilePiece> frame(const std::vector<uint32_t>& crcs) const = 0;

 protected:
  uint64_t file_size_ = 0;
  std::vector<size_t> order_;
  std::vector<uint64_t> data_offsets_;
};

}  // namespace jitflux
