#include "weights/zip_writer.h"

#include <type_traits>
#include <utility>

namespace jitflux {
namespace {

constexpr uint64_t kAlignment = 64;
constexpr uint64_t kLocalSize = 30;
constexpr uint64_t kEntrySize = 46;
constexpr uint64_t kEndSize = 56 + 20 + 22;  // ZIP64 end record, its locator, end record
constexpr uint32_t kIn64 = 0xFFFFFFFF;       // the value stands in the ZIP64 extra field
constexpr uint16_t kZip64Extra = 0x0001;
constexpr uint16_t kPaddingExtra = 0x4246;  // "FB", as PyTorch's
constexpr uint16_t kUtf8Names = 0x0800;
constexpr uint16_t kVersion = 45;   // the first with ZIP64
constexpr uint16_t kDate = 0x0021;  // 1980-01-01

template <class T>
void put(std::string* out, std::type_identity_t<T> value) {
  for (size_t i = 0; i < sizeof(T); ++i) out->push_back(static_cast<char>(value >> (8 * i)));
}

bool is_wide(uint64_t value) { return value >= kIn64; }
uint32_t narrow(uint64_t value) { return is_wide(value) ? kIn64 : static_cast<uint32_t>(value); }

uint64_t local_zip64(uint64_t size) { return is_wide(size) ? 4 + 16 : 0; }

uint64_t entry_zip64(uint64_t size, uint64_t offset) {
  const uint64_t fields = (is_wide(size) ? 16 : 0) + (is_wide(offset) ? 8 : 0);
  return fields > 0 ? 4 + fields : 0;
}

}  // namespace

size_t ZipWriter::add(std::string name, uint64_t size) {
  const uint64_t fixed = end_ + kLocalSize + name.size() + local_zip64(size) + 4;
  const uint64_t data = (fixed + kAlignment - 1) / kAlignment * kAlignment;
  records_.push_back({std::move(name), size, end_, data});
  end_ = data + size;
  return records_.size() - 1;
}

uint64_t ZipWriter::file_size() const {
  uint64_t size = end_ + kEndSize;
  for (const Record& record : records_) {
    size += kEntrySize + record.name.size() + entry_zip64(record.size, record.header_offset);
  }
  return size;
}

std::string ZipWriter::local_header(size_t index, uint32_t crc) const {
  const Record& record = records_[index];
  const uint64_t extra =
      record.data_offset - record.header_offset - kLocalSize - record.name.size();
  std::string out;
  put<uint32_t>(&out, 0x04034b50);
  put<uint16_t>(&out, kVersion);
  put<uint16_t>(&out, kUtf8Names);
  put<uint16_t>(&out, 0);  // stored
  put<uint16_t>(&out, 0);  // time
  put<uint16_t>(&out, kDate);
  put<uint32_t>(&out, crc);
  put<uint32_t>(&out, narrow(record.size));
  put<uint32_t>(&out, narrow(record.size));
  put<uint16_t>(&out, record.name.size());
  put<uint16_t>(&out, extra);
  out += record.name;
  if (is_wide(record.size)) {
    put<uint16_t>(&out, kZip64Extra);
    put<uint16_t>(&out, 16);
    put<uint64_t>(&out, record.size);
    put<uint64_t>(&out, record.size);
  }
  const uint64_t padding = extra - local_zip64(record.size) - 4;
  put<uint16_t>(&out, kPaddingExtra);
  put<uint16_t>(&out, padding);
  out.append(padding, 'Z');
  return out;
}

std::string ZipWriter::directory(const std::vector<uint32_t>& crcs) const {
  std::string out;
  for (size_t i = 0; i < records_.size(); ++i) {
    const Record& record = records_[i];
    const uint64_t extra = entry_zip64(record.size, record.header_offset);
    put<uint32_t>(&out, 0x02014b50);
    put<uint16_t>(&out, kVersion);
    put<uint16_t>(&out, kVersion);
    put<uint16_t>(&out, kUtf8Names);
    put<uint16_t>(&out, 0);  // stored
    put<uint16_t>(&out, 0);  // time
    put<uint16_t>(&out, kDate);
    put<uint32_t>(&out, crcs[i]);
    put<uint32_t>(&out, narrow(record.size));
    put<uint32_t>(&out, narrow(record.size));
    put<uint16_t>(&out, record.name.size());
    put<uint16_t>(&out, extra);
    put<uint16_t>(&out, 0);  // comment
    put<uint16_t>(&out, 0);  // disk
    put<uint16_t>(&out, 0);  // internal attributes
    put<uint32_t>(&out, 0);  // external attributes
    put<uint32_t>(&out, narrow(record.header_offset));
    out += record.name;
    if (extra > 0) {
      put<uint16_t>(&out, kZip64Extra);
      put<uint16_t>(&out, extra - 4);
      if (is_wide(record.size)) {
        put<uint64_t>(&out, record.size);
        put<uint64_t>(&out, record.size);
      }
      if (is_wide(record.header_offset)) put<uint64_t>(&out, record.header_offset);
    }
  }
  const uint64_t size = out.size();
  const uint64_t count = records_.size();

  put<uint32_t>(&out, 0x06064b50);
  put<uint64_t>(&out, 56 - 12);
  put<uint16_t>(&out, kVersion);
  put<uint16_t>(&out, kVersion);
  put<uint32_t>(&out, 0);  // disks
  put<uint32_t>(&out, 0);
  put<uint64_t>(&out, count);
  put<uint64_t>(&out, count);
  put<uint64_t>(&out, size);
  put<uint64_t>(&out, end_);

  put<uint32_t>(&out, 0x07064b50);
  put<uint32_t>(&out, 0);
  put<uint64_t>(&out, end_ + size);
  put<uint32_t>(&out, 1);

  const uint16_t short_count = count >= 0xFFFF ? 0xFFFF : static_cast<uint16_t>(count);
  put<uint32_t>(&out, 0x06054b50);
  put<uint16_t>(&out, 0);
  put<uint16_t>(&out, 0);
  put<uint16_t>(&out, short_count);
  put<uint16_t>(&out, short_count);
  put<uint32_t>(&out, narrow(size));
  put<uint32_t>(&out, narrow(end_));
  put<uint16_t>(&out, 0);  // comment
  return out;
}

}  // namespace jitflux
