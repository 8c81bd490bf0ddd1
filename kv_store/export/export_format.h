#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "core/base/wire.h"
#include "kv_store/export/signing_key.h"
#include "kv_store/records/record.h"

// The byte layout stands in docs/export_format.md.
namespace tandem::kv_store {

inline constexpr std::array<uint8_t, 8> kExportMagic = {'T', 'A', 'N', 'D', 'E', 'M', 'P', 'X'};
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
  int32_t state_groups = 0;  // the last ones of `groups`, which hold states
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

/// The first kExportHeaderBytes of a file; the model's name and the tokens follow.
struct ExportFileHeader {
  std::array<uint8_t, 8> magic = kExportMagic;
  uint32_t version = kExportVersion;
  uint32_t header_bytes = kExportHeaderBytes;
  uint32_t tokens = 0;
  uint32_t kv_heads = 0;
  uint32_t groups = 0;
  uint32_t records = 0;
  uint32_t name_bytes = 0;
  uint32_t state_groups = 0;
  Fingerprint fingerprint{};
  PublicKey signer{};
};
template <typename Archive>
void Fields(Archive& archive, ExportFileHeader& header) {
  archive(header.magic, header.version, header.header_bytes, header.tokens, header.kv_heads,
          header.groups, header.records, header.name_bytes, header.state_groups, header.fingerprint,
          header.signer);
}

/// Stands before every record.
struct ExportEntry {
  uint32_t block = 0;
  uint32_t group = 0;
  uint32_t kv_head = 0;
  uint32_t record_bytes = 0;
};
template <typename Archive>
void Fields(Archive& archive, ExportEntry& entry) {
  archive(entry.block, entry.group, entry.kv_head, entry.record_bytes);
}

}  // namespace tandem::kv_store
