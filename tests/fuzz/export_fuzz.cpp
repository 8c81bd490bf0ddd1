#include <cstdlib>
#include <optional>
#include <vector>

#include "kv_store/export_reader.h"
#include "tests/support/signed_export.h"

namespace {

using namespace tandem;
using namespace tandem::kv_store;

/// What a file holds, if all of it is accepted.
std::optional<std::vector<ExportRecord>> ReadAll(std::span<const std::byte> bytes) {
  MemorySource source(bytes);
  ExportReader reader(source);
  const auto header = reader.ReadHeader();
  if (!header.ok()) return std::nullopt;
  std::vector<ExportRecord> records;
  for (;;) {
    auto record = reader.NextRecord();
    if (!record.ok()) return std::nullopt;
    if (!record->has_value()) break;
    records.push_back(*std::move(*record));
  }
  if (!reader.Finish().ok()) return std::nullopt;
  if (static_cast<int64_t>(records.size()) != header->records) std::abort();
  return records;
}

}  // namespace

/// Exported files as they are, and under right checksums and signature. What is accepted is in
/// order and whole, and no longer accepted once a byte of it is another.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto* bytes = reinterpret_cast<const std::byte*>(data);
  static_cast<void>(ReadAll({bytes, size}));
  std::vector<std::byte> file = testing::SignedExport({bytes, bytes + size});
  const auto records = ReadAll(file);
  if (!records) return 0;
  for (size_t i = 0; i < records->size(); ++i) {
    const ExportRecord& record = (*records)[i];
    if (i > 0 && !((*records)[i - 1].place < record.place)) std::abort();
    const auto header = ParseRecord(record.bytes);
    if (!header.ok() || header->name.kv_head != record.place.kv_head ||
        header->name.group != record.place.group || header->name.tokens != core::kPageTokens) {
      std::abort();
    }
  }
  file[size % file.size()] ^= std::byte{1};
  if (ReadAll(file)) std::abort();
  return 0;
}
