#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "kv_store/export/export_format.h"

namespace tandem::kv_store {

/// Bytes that come one after the other.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  /// Fills `out` as far as there are bytes; how many it filled, fewer only at the end.
  virtual absl::StatusOr<size_t> Read(std::span<std::byte> out) = 0;
};

class MemorySource final : public ByteSource {
 public:
  /// bytes: must outlive it.
  explicit MemorySource(std::span<const std::byte> bytes) : bytes_(bytes) {}
  absl::StatusOr<size_t> Read(std::span<std::byte> out) override;

 private:
  std::span<const std::byte> bytes_;
};

class FileSource final : public ByteSource {
 public:
  /// kNotFound, kInvalidArgument (no regular file), kUnavailable.
  static absl::StatusOr<std::unique_ptr<FileSource>> Open(const std::string& path);
  ~FileSource() override;
  absl::StatusOr<size_t> Read(std::span<std::byte> out) override;
  /// Back to the beginning.
  absl::Status Rewind();
  int64_t size() const { return size_; }

 private:
  FileSource(std::string path, int file, int64_t size)
      : path_(std::move(path)), file_(file), size_(size) {}

  const std::string path_;
  const int file_;
  const int64_t size_;
};

/// A record of an exported file, which names no block.
struct ExportRecord {
  ExportPlace place;
  RecordHeader header;
  std::vector<std::byte> bytes;  // as ParseRecord accepts them
};

/// Reads an exported file in a stream, trusting nothing: header first, then its records, then the
/// signature over all of it. What was read is nobody's word before Finish has returned OK.
///
/// Errors: kDataLoss where the file is cut short, damaged or changed; kFailedPrecondition where it
/// is of another version. Memory: the header and one record. Thread safety: none.
class ExportReader {
 public:
  /// source: must outlive it.
  explicit ExportReader(ByteSource& source);
  ~ExportReader();
  ExportReader(const ExportReader&) = delete;
  ExportReader& operator=(const ExportReader&) = delete;

  absl::StatusOr<ExportHeader> ReadHeader();
  /// The next record; nothing after the last.
  absl::StatusOr<std::optional<ExportRecord>> NextRecord();
  /// OK if the signature is that of the header's signer and nothing follows it.
  absl::Status Finish();

  int64_t bytes_read() const { return bytes_read_; }

 private:
  struct Hash;
  struct Shape {
    int32_t layers = 0;
    int32_t head_dim = 0;
    core::KvDtype dtype = core::KvDtype::kF16;
    bool operator==(const Shape&) const = default;
  };

  /// Exactly so many bytes, which then count for the signature.
  absl::Status Fill(std::span<std::byte> out, std::string_view what);
  absl::StatusOr<std::vector<std::byte>> Take(size_t size, std::string_view what);
  absl::Status CheckPlace(const ExportPlace& place);
  absl::Status CheckRecordOf(const ExportPlace& place, const RecordHeader& header);

  ByteSource& source_;
  const std::unique_ptr<Hash> hash_;
  ExportHeader header_;
  int64_t bytes_read_ = 0;
  int64_t records_read_ = 0;
  std::optional<ExportPlace> last_;
  int32_t groups_of_block_ = 0;  // of the last record's block, without states
  std::map<int32_t, Shape> shapes_;
};

}  // namespace tandem::kv_store
