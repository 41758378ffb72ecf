// Lays out a ZIP archive of stored records with 64-byte aligned contents, as PyTorch's writer does
// (caffe2/serialize/inline_container.cc), but with sizes and CRC-32 in the local headers.
//
// Format: PKWARE APPNOTE 6.3.10. ZIP64 fields stand where a size or offset needs them; the ZIP64
// end records always, as in PyTorch's archives. All times are 1980-01-01: equal content, equal
// bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace jitflux {

class ZipWriter {
 public:
  // Appends a record; returns its position. `name`: UTF-8, at most 65535 bytes.
  size_t add(std::string name, uint64_t size);

  size_t count() const { return records_.size(); }
  uint64_t header_offset(size_t record) const { return records_[record].header_offset; }
  uint64_t data_offset(size_t record) const { return records_[record].data_offset; }
  uint64_t directory_offset() const { return end_; }
  uint64_t file_size() const;

  // What precedes the record's contents, alignment included.
  std::string local_header(size_t record, uint32_t crc) const;
  // What follows the last record. One CRC-32 per record.
  std::string directory(const std::vector<uint32_t>& crcs) const;

 private:
  struct Record {
    std::string name;
    uint64_t size;
    uint64_t header_offset;
    uint64_t data_offset;
  };

  std::vector<Record> records_;
  uint64_t end_ = 0;
};

}  // namespace jitflux
