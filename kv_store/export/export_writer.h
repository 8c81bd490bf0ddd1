#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "kv_store/base/files.h"
#include "kv_store/export/export_format.h"

namespace tandem::kv_store {

/// Writes an exported file, which is there once it is whole and synced (WholeFile).
/// Thread safety: none.
class ExportWriter {
 public:
  /// The header's signer is the key's. kInvalidArgument if the header is beyond the format's limits
  /// or the path cannot be a file; kUnavailable or kResourceExhausted if the disk fails.
  static absl::StatusOr<std::unique_ptr<ExportWriter>> Create(const std::string& path,
                                                              ExportHeader header,
                                                              const SigningKey& key);
  ~ExportWriter();
  ExportWriter(const ExportWriter&) = delete;
  ExportWriter& operator=(const ExportWriter&) = delete;

  /// The next record, one that ParseRecord accepts; which block it names does not matter.
  absl::Status Add(const ExportPlace& place, std::vector<std::byte> record);
  /// Signs it and puts it in its place.
  absl::Status Finish();

  int64_t bytes() const { return bytes_; }

 private:
  struct Hash;

  ExportWriter(std::unique_ptr<WholeFile> file, const SigningKey& key);
  absl::Status Write(std::span<const std::byte> bytes);

  const SigningKey key_;
  const std::unique_ptr<Hash> hash_;
  const std::unique_ptr<WholeFile> file_;
  int64_t bytes_ = 0;
  int64_t records_left_ = 0;
};

}  // namespace tandem::kv_store
