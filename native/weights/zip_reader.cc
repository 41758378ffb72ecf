#include "weights/zip_reader.h"

#include <algorithm>
#include <array>

#include "weights/reader_util.h"

namespace jitflux {
namespace {

constexpr uint32_t kLocalSignature = 0x04034b50;
constexpr uint32_t kEntrySignature = 0x02014b50;
constexpr uint32_t kEndSignature = 0x06054b50;
constexpr uint32_t kEnd64Signature = 0x06064b50;
constexpr uint32_t kLocatorSignature = 0x07064b50;
constexpr uint64_t kLocalSize = 30;
constexpr uint64_t kEntrySize = 46;
constexpr uint64_t kEndSize = 22;
constexpr uint64_t kEnd64Size = 56;
constexpr uint64_t kLocatorSize = 20;
constexpr uint16_t kZip64Extra = 0x0001;
constexpr uint16_t kFlagEncrypted = 0x0001 | 0x0040 | 0x2000;  // plain, strong, masked directory
constexpr uint16_t kFlagSizesFollow = 0x0008;
constexpr uint32_t kIn64 = 0xFFFFFFFF;  // the value stands in the ZIP64 extra field
constexpr uint64_t kMaxRecords = uint64_t{1} << 20;
constexpr uint64_t kMaxDirectory = uint64_t{256} << 20;  // bytes; FLUX.1 has about 100 KB
constexpr uint64_t kVerifiedAtOnce = uint64_t{1} << 20;

// True if [offset, offset + length) lies inside [0, limit).
constexpr bool inside(uint64_t offset, uint64_t length, uint64_t limit) {
  return offset <= limit && length <= limit - offset;
}

// The ZIP64 extra field: 8 bytes for each fixed-size value that is saturated, in the order given.
// False if a value is missing or the fields are malformed.
bool read_zip64(std::span<const std::byte> extra, std::span<uint64_t* const> wanted) {
  while (extra.size() >= 4) {
    const auto id = load_le<uint16_t>(extra.data());
    const auto length = load_le<uint16_t>(extra.data() + 2);
    extra = extra.subspan(4);
    if (length > extra.size()) return false;
    if (id == kZip64Extra) {
      if (length < wanted.size() * 8) return false;
      for (size_t i = 0; i < wanted.size(); ++i) {
        *wanted[i] = load_le<uint64_t>(extra.data() + 8 * i);
      }
      return true;
    }
    extra = extra.subspan(length);
  }
  return wanted.empty();
}

using CrcTables = std::array<std::array<uint32_t, 256>, 8>;

constexpr CrcTables make_crc_tables() {
  CrcTables tables{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0xEDB88320u : 0);
    tables[0][i] = crc;
  }
  for (size_t t = 1; t < 8; ++t) {
    for (size_t i = 0; i < 256; ++i) {
      const uint32_t previous = tables[t - 1][i];
      tables[t][i] = (previous >> 8) ^ tables[0][previous & 0xFF];
    }
  }
  return tables;
}

constexpr CrcTables kCrc = make_crc_tables();

}  // namespace

// Slicing-by-8 (Kounavis and Berry, 2005): eight table look-ups replace eight dependent steps.
uint32_t crc32(std::span<const std::byte> data, uint32_t previous) {
  uint32_t crc = ~previous;
  while (data.size() >= 8) {
    const uint32_t low = load_le<uint32_t>(data.data()) ^ crc;
    const uint32_t high = load_le<uint32_t>(data.data() + 4);
    crc = kCrc[7][low & 0xFF] ^ kCrc[6][(low >> 8) & 0xFF] ^ kCrc[5][(low >> 16) & 0xFF] ^
          kCrc[4][low >> 24] ^ kCrc[3][high & 0xFF] ^ kCrc[2][(high >> 8) & 0xFF] ^
          kCrc[1][(high >> 16) & 0xFF] ^ kCrc[0][high >> 24];
    data = data.subspan(8);
  }
  for (const std::byte byte : data) {
    crc = (crc >> 8) ^ kCrc[0][(crc ^ std::to_integer<uint32_t>(byte)) & 0xFF];
  }
  return ~crc;
}

ZipReader::ZipReader(const InputFile& file) : file_(file) {
  read_directory();
  check_overlap();
}

const ZipRecord* ZipReader::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &records_[found->second];
}

void ZipReader::expect_stored(const ZipRecord& record) const {
  if (!record.encrypted && record.method == 0) return;
  fail(error_code::kUnsafeFile, file_.path(),
       "record " + in_quotes(record.name) +
           (record.encrypted ? " is encrypted" : " is compressed; weights must be stored"));
}

std::vector<std::byte> ZipReader::read(const ZipRecord& record) const {
  expect_stored(record);
  return file_.read(record.data_offset, record.size);
}

void ZipReader::verify(const Job& job) const {
  std::vector<std::byte> buffer(kVerifiedAtOnce);
  for (const ZipRecord& record : records_) {
    if (record.method != 0 || record.encrypted) continue;
    uint32_t crc = 0;
    for (uint64_t done = 0; done < record.size;) {
      job.checkpoint();
      const auto part =
          std::span(buffer).first(std::min<uint64_t>(record.size - done, kVerifiedAtOnce));
      file_.read(record.data_offset + done, part);
      crc = crc32(part, crc);
      done += part.size();
    }
    if (crc != record.crc32) {
      fail(error_code::kCorruptFile, file_.path(),
           "record " + in_quotes(record.name) + " fails its CRC-32 check");
    }
  }
}

void ZipReader::read_directory() {
  const std::string& path = file_.path();
  const uint64_t file_size = file_.size();
  const auto corrupt = [&](const char* what) { fail(error_code::kCorruptFile, path, what); };
  if (file_size < kEndSize) corrupt("truncated ZIP archive (shorter than its end record)");

  // The end record is last, followed only by a comment of at most 65535 bytes. Before it, the
  // ZIP64 locator.
  const uint64_t tail_size = std::min(file_size, kEndSize + 0xFFFF + kLocatorSize);
  const uint64_t tail_at = file_size - tail_size;
  const std::vector<std::byte> tail = file_.read(tail_at, tail_size);
  const auto in_tail = [&](uint64_t at) { return tail.data() + (at - tail_at); };
  uint64_t end_at = file_size - kEndSize;
  const uint64_t lowest = end_at > 0xFFFF ? end_at - 0xFFFF : 0;
  for (;; --end_at) {
    if (load_le<uint32_t>(in_tail(end_at)) == kEndSignature &&
        load_le<uint16_t>(in_tail(end_at) + 20) == file_size - end_at - kEndSize) {
      break;
    }
    if (end_at == lowest) corrupt("truncated ZIP archive (its end record is missing)");
  }
  const std::byte* end = in_tail(end_at);
  if (load_le<uint16_t>(end + 4) != 0 || load_le<uint16_t>(end + 6) != 0 ||
      load_le<uint16_t>(end + 8) != load_le<uint16_t>(end + 10)) {
    corrupt("a ZIP archive in several parts is not a weight file");
  }
  uint64_t count = load_le<uint16_t>(end + 10);
  uint64_t size = load_le<uint32_t>(end + 12);
  uint64_t offset = load_le<uint32_t>(end + 16);
  uint64_t limit = end_at;

  if (end_at >= kLocatorSize &&
      load_le<uint32_t>(in_tail(end_at - kLocatorSize)) == kLocatorSignature) {
    const uint64_t at = load_le<uint64_t>(in_tail(end_at - kLocatorSize) + 8);
    std::array<std::byte, kEnd64Size> end64{};
    const bool inside_file = inside(at, kEnd64Size, end_at - kLocatorSize);
    if (inside_file) file_.read(at, end64);
    if (load_le<uint32_t>(end64.data()) != kEnd64Signature) {
      corrupt("the ZIP64 end record is not where the archive says");
    }
    const auto count64 = load_le<uint64_t>(end64.data() + 32);
    const auto size64 = load_le<uint64_t>(end64.data() + 40);
    const auto offset64 = load_le<uint64_t>(end64.data() + 48);
    // Readers differ in which of the two they trust, so they must agree.
    if ((count != 0xFFFF && count != count64) || (size != kIn64 && size != size64) ||
        (offset != kIn64 && offset != offset64)) {
      corrupt("the ZIP and ZIP64 end records disagree");
    }
    count = count64;
    size = size64;
    offset = offset64;
    limit = at;
  }
  if (!inside(offset, size, limit)) corrupt("the ZIP directory lies outside the file");
  if (count > kMaxRecords) fail(error_code::kUnsafeFile, path, "too many records in the archive");
  if (count > size / kEntrySize) corrupt("the ZIP directory is shorter than its record count");

  if (size > kMaxDirectory) fail(error_code::kUnsafeFile, path, "the ZIP directory is too large");

  directory_offset_ = offset;
  directory_ = file_.read(offset, size);
  records_.reserve(count);
  uint64_t at = 0;
  for (uint64_t i = 0; i < count; ++i) read_entry(&at);
  if (at != size) corrupt("the ZIP directory is longer than its records");
}

void ZipReader::read_entry(uint64_t* at) {
  const std::span<const std::byte> directory(directory_);
  const uint64_t end = directory.size();
  const auto corrupt = [&](const std::string& what) {
    fail(error_code::kCorruptFile, file_.path(), what);
  };
  const std::byte* entry = directory.data() + *at;
  if (!inside(*at, kEntrySize, end) || load_le<uint32_t>(entry) != kEntrySignature) {
    corrupt("damaged entry in the ZIP directory");
  }
  const uint64_t name_length = load_le<uint16_t>(entry + 28);
  const uint64_t extra_length = load_le<uint16_t>(entry + 30);
  const uint64_t comment_length = load_le<uint16_t>(entry + 32);
  if (!inside(*at + kEntrySize, name_length + extra_length + comment_length, end)) {
    corrupt("a ZIP directory entry runs past the directory");
  }
  ZipRecord record;
  record.name = as_text(directory.subspan(*at + kEntrySize, name_length));
  record.encrypted = (load_le<uint16_t>(entry + 8) & kFlagEncrypted) != 0;
  record.method = load_le<uint16_t>(entry + 10);
  record.crc32 = load_le<uint32_t>(entry + 16);
  record.stored_size = load_le<uint32_t>(entry + 20);
  record.size = load_le<uint32_t>(entry + 24);
  record.header_offset = load_le<uint32_t>(entry + 42);

  std::array<uint64_t*, 3> wide{};
  size_t wide_count = 0;
  for (uint64_t* value : {&record.size, &record.stored_size, &record.header_offset}) {
    if (*value == kIn64) wide[wide_count++] = value;
  }
  if (wide_count > 0 && !read_zip64(directory.subspan(*at + kEntrySize + name_length, extra_length),
                                    std::span(wide).first(wide_count))) {
    corrupt("record " + in_quotes(record.name) + " lacks its ZIP64 sizes");
  }
  if (record.method == 0 && !record.encrypted && record.size != record.stored_size) {
    corrupt("record " + in_quotes(record.name) + " is stored with two different sizes");
  }
  check_local_header(&record);
  if (!index_.emplace(record.name, records_.size()).second) {
    fail(error_code::kUnsafeFile, file_.path(),
         "the archive has two records named " + in_quotes(record.name));
  }
  records_.push_back(record);
  *at += kEntrySize + name_length + extra_length + comment_length;
}

void ZipReader::check_local_header(ZipRecord* record) const {
  const auto corrupt = [&](const char* what) {
    fail(error_code::kCorruptFile, file_.path(), "record " + in_quotes(record->name) + " " + what);
  };
  const uint64_t at = record->header_offset;
  if (!inside(at, kLocalSize, directory_offset_)) corrupt("lies outside the file");
  std::array<std::byte, kLocalSize> fixed{};
  file_.read(at, fixed);
  const std::byte* header = fixed.data();
  if (load_le<uint32_t>(header) != kLocalSignature) corrupt("has no local header");
  const uint64_t name_length = load_le<uint16_t>(header + 26);
  const uint64_t extra_length = load_le<uint16_t>(header + 28);
  if (!inside(at + kLocalSize, name_length + extra_length, directory_offset_)) {
    corrupt("has a local header that runs past the file");
  }
  record->data_offset = at + kLocalSize + name_length + extra_length;
  if (!inside(record->data_offset, record->stored_size, directory_offset_)) {
    corrupt("runs past the end of the file");
  }

  const std::vector<std::byte> named = file_.read(at + kLocalSize, name_length + extra_length);
  const std::span<const std::byte> variable(named);
  const uint16_t flags = load_le<uint16_t>(header + 6);
  uint64_t stored_size = load_le<uint32_t>(header + 18);
  uint64_t size = load_le<uint32_t>(header + 22);
  if (as_text(variable.first(name_length)) != record->name ||
      load_le<uint16_t>(header + 8) != record->method ||
      ((flags & kFlagEncrypted) != 0) != record->encrypted) {
    corrupt("differs between the directory and its local header");
  }
  // With bit 3 the local fields are normally zero, the values follow the data.
  const bool may_be_zero = (flags & kFlagSizesFollow) != 0;
  if (size == kIn64 || stored_size == kIn64) {
    std::array<uint64_t*, 2> wide{};
    size_t wide_count = 0;
    if (size == kIn64) wide[wide_count++] = &size;
    if (stored_size == kIn64) wide[wide_count++] = &stored_size;
    if (!read_zip64(variable.subspan(name_length), std::span(wide).first(wide_count))) {
      corrupt("lacks its ZIP64 sizes");
    }
  }
  const uint32_t crc = load_le<uint32_t>(header + 14);
  const auto agrees = [&](uint64_t local, uint64_t central) {
    return local == central || (may_be_zero && local == 0);
  };
  if (!agrees(size, record->size) || !agrees(stored_size, record->stored_size) ||
      !agrees(crc, record->crc32)) {
    corrupt("has other sizes in its local header than in the directory");
  }
}

// Overlapping records let a small file claim much content.
void ZipReader::check_overlap() const {
  std::vector<const ZipRecord*> order;
  order.reserve(records_.size());
  for (const ZipRecord& record : records_) order.push_back(&record);
  std::sort(order.begin(), order.end(), [](const ZipRecord* a, const ZipRecord* b) {
    return a->header_offset < b->header_offset;
  });
  for (size_t i = 1; i < order.size(); ++i) {
    const ZipRecord& before = *order[i - 1];
    if (before.data_offset + before.stored_size > order[i]->header_offset) {
      fail(error_code::kUnsafeFile, file_.path(),
           "records " + in_quotes(before.name) + " and " + in_quotes(order[i]->name) + " overlap");
    }
  }
}

}  // namespace jitflux
