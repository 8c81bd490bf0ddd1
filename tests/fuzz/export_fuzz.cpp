#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>
#include <vector>

#include "kv_store/export/export_reader.h"
#include "kv_store/export/export_writer.h"
#include "tests/support/kv_chain.h"
#include "tests/support/signed_export.h"
#include "tests/support/temporary_directory.h"

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

/// A small file that is accepted: two blocks of two layer groups and two KV heads.
std::vector<std::byte> ValidFile() {
  testing::KvChain chain;
  chain.geometry = {.groups = {{.window = 0, .layers = {0}}, {.window = 64, .layers = {1}}},
                    .layers = 2,
                    .kv_heads = 2,
                    .head_dim = 1,
                    .dtype = core::KvDtype::kF16};
  const std::vector<int32_t> tokens = testing::CountedTokens(2 * core::kPageTokens);
  const std::vector<TierRecord> records = chain.Records(tokens);
  ExportHeader header;
  header.fingerprint = chain.fingerprint;
  header.model = "m";
  header.tokens = tokens;
  header.kv_heads = 2;
  header.groups = 2;
  header.records = static_cast<int64_t>(records.size());
  const testing::TemporaryDirectory folder;
  const std::string path = folder.path() + "/file";
  auto writer = ExportWriter::Create(path, header, testing::TestSigningKey());
  if (!writer.ok()) std::abort();
  for (int32_t i = 0; i < 8; ++i) {
    const ExportPlace place{.block = i / 4, .group = i / 2 % 2, .kv_head = i % 2};
    if (!(*writer)->Add(place, records[static_cast<size_t>(i)].bytes.Copy()).ok()) std::abort();
  }
  if (!(*writer)->Finish().ok()) std::abort();
  std::ifstream file(path, std::ios::binary);
  const std::string text(std::istreambuf_iterator<char>(file), {});
  const auto* bytes = reinterpret_cast<const std::byte*>(text.data());
  return {bytes, bytes + text.size()};
}

/// The input as changes to a file: where (two bytes), and to what.
std::vector<std::byte> Changed(std::vector<std::byte> file, const uint8_t* data, size_t size) {
  for (size_t i = 0; i + 2 < size; i += 3) {
    const size_t at = data[i] | static_cast<size_t>(data[i + 1]) << 8;
    if (at == 0xFFFF) {
      file.resize(file.size() - std::min<size_t>(data[i + 2], file.size()));
    } else if (!file.empty()) {
      file[at % file.size()] = static_cast<std::byte>(data[i + 2]);
    }
  }
  return file;
}

/// What is accepted is in order and whole, and no longer accepted once a byte of it is another.
void Check(std::vector<std::byte> file, size_t flipped) {
  const auto records = ReadAll(file);
  if (!records) return;
  for (size_t i = 0; i < records->size(); ++i) {
    const ExportRecord& record = (*records)[i];
    if (i > 0 && !((*records)[i - 1].place < record.place)) std::abort();
    const auto header = ParseRecord(record.bytes);
    if (!header.ok() || header->name.kv_head != record.place.kv_head ||
        header->name.group != record.place.group || header->name.tokens != core::kPageTokens) {
      std::abort();
    }
  }
  file[flipped % file.size()] ^= std::byte{1};
  if (ReadAll(file)) std::abort();
}

}  // namespace

/// Exported files as they are, and under right checksums and signature: the input itself, and the
/// input as changes to a valid file.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::vector<std::byte> valid = [] {
    std::vector<std::byte> file = ValidFile();
    if (!ReadAll(file)) std::abort();
    return file;
  }();
  const auto* bytes = reinterpret_cast<const std::byte*>(data);
  static_cast<void>(ReadAll({bytes, size}));
  const size_t flipped = size < 4 ? size : data[0] | static_cast<size_t>(data[3]) << 8;
  Check(testing::SignedExport({bytes, bytes + size}), flipped);
  const std::vector<std::byte> changed = Changed(valid, data, size);
  static_cast<void>(ReadAll(changed));
  Check(testing::SignedExport(changed), flipped);
  return 0;
}
