#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "kv_store/export/signing_key.h"
#include "kv_store/records/record.h"

// The byte layout stands in docs/export_format.md.
namespace tandem::kv_store {

inline constexpr uint32_t kExportVersion = 2;
inline constexpr size_t kExportHeaderBytes = 104;
inline constexpr size_t kExportEntryBytes = 16;  // before every record
inline constexpr size_t kExportSignatureBytes = 64;

// With these no product of sizes comes near the end of 64 bits.
inline constexpr uint32_t kMostExportTokens = 1 << 20;
inline constexpr uint32_t kMostExportHeads = 1 << 12;
inline constexpr uint32_t kMostExportGroups = 1 << 6;
inline constexpr uint32_t kMostExportRecords = 1 << 24;
inline constexpr uint32_t kMostExportRecordBytes = 1 << 28;
inline constexpr uint32_t kMostExportNameBytes = 256;

/// What an exported file says of itself before its records.
struct ExportHeader {
  Fingerprint fingerprint{};
  PublicKey signer{};
  std::string model;            // its name, for people
  std::vector<int32_t> tokens;  // of the prefix: whole blocks of 64
  int32_t kv_heads = 0;
  int32_t groups = 0;
  int64_t records = 0;

  bool operator==(const ExportHeader&) const = default;
};

/// Where a record stands in the file: ordered by block, then group, then KV head.
struct ExportPlace {
  int32_t block = 0;  // of the prefix
  int32_t group = 0;
  int32_t kv_head = 0;

  auto operator<=>(const ExportPlace&) const = default;
};

}  // namespace tandem::kv_store
