// Directory of a ZIP archive; of records' contents, the places in the file.
//
// Format: PKWARE APPNOTE 6.3.10, sections 4.3.7 (local header), 4.3.12 (central directory), 4.3.14
// to 4.3.16 (ZIP64 and end records). PyTorch writes stored records with bit 3 set (sizes and CRC
// only in the directory) and always adds ZIP64 end records. Nothing is ever inflated.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/job.h"
#include "weights/input_file.h"

namespace jitflux {

struct ZipRecord {
  std::string_view name;  // lies in the reader
  uint16_t method = 0;    // 0 = stored, 8 = deflated
  bool encrypted = false;
  uint32_t crc32 = 0;
  uint64_t size = 0;         // uncompressed
  uint64_t stored_size = 0;  // as it lies in the file
  uint64_t header_offset = 0;
  uint64_t data_offset = 0;
};

class ZipReader {
 public:
  // Reads the directory and checks every record against its local header, the file's bounds and
  // the other records. `file` must outlive the reader. Throws Error: kCorruptFile (truncated,
  // inconsistent), kUnsafeFile (duplicate names, overlapping records, absurd record counts), and
  // those of InputFile::read.
  explicit ZipReader(const InputFile& file);
  ZipReader(const ZipReader&) = delete;
  ZipReader& operator=(const ZipReader&) = delete;

  const std::vector<ZipRecord>& records() const { return records_; }
  const ZipRecord* find(std::string_view name) const;  // nullptr if absent

  // Throws Error kUnsafeFile if the record is compressed or encrypted.
  void expect_stored(const ZipRecord& record) const;
  // The content of a record that is stored as it is: else as expect_stored().
  std::vector<std::byte> read(const ZipRecord& record) const;

  // Checks the CRC-32 of every stored record; throws Error kCorruptFile naming the first bad one.
  // Compressed records (the code of a TorchScript archive) are never read and so are not checked.
  // Reads the whole file; kAborted if `job` was.
  void verify(const Job& job) const;

 private:
  void read_directory();
  void read_entry(uint64_t* at);
  void check_local_header(ZipRecord* record) const;
  void check_overlap() const;

  const InputFile& file_;
  std::vector<std::byte> directory_;
  uint64_t directory_offset_ = 0;  // in the file
  std::vector<ZipRecord> records_;
  std::map<std::string_view, size_t> index_;
};

// `previous`: the CRC-32 of what comes before `data`.
uint32_t crc32(std::span<const std::byte> data, uint32_t previous = 0);

}  // namespace jitflux
