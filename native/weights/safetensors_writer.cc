#include "weights/safetensors_writer.h"

#include <algorithm>
#include <numeric>

#include "weights/reader_util.h"

namespace jitflux {
namespace {

constexpr uint64_t kMaxHeader = 100'000'000;

const char* dtype_code(WeightDType dtype) {
  switch (dtype) {
    case WeightDType::kFloat32:
      return "F32";
    case WeightDType::kBFloat16:
      return "BF16";
    case WeightDType::kFloat16:
      return "F16";
    case WeightDType::kFloat64:
      return "F64";
    case WeightDType::kInt64:
      return "I64";
    case WeightDType::kInt32:
      return "I32";
    case WeightDType::kInt16:
      return "I16";
    case WeightDType::kInt8:
      return "I8";
    case WeightDType::kUInt8:
      return "U8";
    case WeightDType::kBool:
      return "BOOL";
  }
  return "";
}

std::string json_string(std::string_view text) {
  constexpr char kHex[] = "0123456789abcdef";
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += {'\\', c};
    } else if (byte < 0x20) {
      out += {'\\', 'u', '0', '0', kHex[byte >> 4], kHex[byte & 15]};
    } else {
      out += c;
    }
  }
  return out + "\"";
}

class SafetensorsLayout final : public WeightLayout {
 public:
  SafetensorsLayout(const std::vector<TensorSpec>& tensors,
                    const std::vector<std::pair<std::string, std::string>>& metadata) {
    order_.resize(tensors.size());
    std::iota(order_.begin(), order_.end(), size_t{0});
    std::stable_sort(order_.begin(), order_.end(), [&](size_t a, size_t b) {
      return element_size(tensors[a].dtype) > element_size(tensors[b].dtype);
    });

    header_ = "{\"__metadata__\":{";
    for (size_t i = 0; i < metadata.size(); ++i) {
      header_ += (i > 0 ? "," : "") + json_string(metadata[i].first) + ":" +
                 json_string(metadata[i].second);
    }
    header_ += "}";
    data_offsets_.resize(tensors.size());
    uint64_t end = 0;
    for (const size_t i : order_) {
      const TensorSpec& tensor = tensors[i];
      if (!is_utf8(tensor.name) || tensor.name == "__metadata__") {
        throw Error(error_code::kUnsupportedFormat,
                    "A safetensors file cannot hold a tensor named " + in_quotes(tensor.name));
      }
      const uint64_t begin = end;
      end += tensor.nbytes();
      data_offsets_[i] = begin;
      header_ += "," + json_string(tensor.name) + ":{\"dtype\":\"" + dtype_code(tensor.dtype) +
                 "\",\"shape\":[";
      for (size_t d = 0; d < tensor.shape.size(); ++d) {
        header_ += (d > 0 ? "," : "") + std::to_string(tensor.shape[d]);
      }
      header_ += "],\"data_offsets\":[" + std::to_string(begin) + "," + std::to_string(end) + "]}";
    }
    header_ += "}";
    header_.append((8 - header_.size() % 8) % 8, ' ');
    if (header_.size() > kMaxHeader) {
      throw Error(error_code::kUnsupportedFormat, "Too many tensors for a safetensors header");
    }
    for (uint64_t& offset : data_offsets_) offset += 8 + header_.size();
    file_size_ = 8 + header_.size() + end;
  }

  std::vector<FilePiece> frame(const std::vector<uint32_t>&) const override {
    std::string bytes;
    for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(header_.size() >> (8 * i)));
    return {{0, bytes + header_}};
  }

 private:
  std::string header_;
};

}  // namespace

std::unique_ptr<WeightLayout> layout_safetensors(
    const std::vector<TensorSpec>& tensors,
    const std::vector<std::pair<std::string, std::string>>& metadata) {
  return std::make_unique<SafetensorsLayout>(tensors, metadata);
}

}  // namespace jitflux
