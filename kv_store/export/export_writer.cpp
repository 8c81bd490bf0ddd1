#include "kv_store/export/export_writer.h"

#include <sodium.h>

#include <filesystem>
#include <utility>

#include "core/base/check.h"

namespace tandem::kv_store {
namespace {

absl::Status CheckHeader(const ExportHeader& header) {
  const auto check = [](std::string_view what, uint64_t found, uint64_t most) -> absl::Status {
    if (found >= 1 && found <= most) return absl::OkStatus();
    return InvalidArgument("an exported file has 1 to {} {}, not {}", most, what, found);
  };
  TANDEM_RETURN_IF_ERROR(check("tokens", header.tokens.size(), kMostExportTokens));
  TANDEM_RETURN_IF_ERROR(
      check("KV heads", static_cast<uint64_t>(header.kv_heads), kMostExportHeads));
  TANDEM_RETURN_IF_ERROR(
      check("layer groups", static_cast<uint64_t>(header.groups), kMostExportGroups));
  TANDEM_RETURN_IF_ERROR(
      check("records", static_cast<uint64_t>(header.records), kMostExportRecords));
  TANDEM_CHECK(header.tokens.size() % core::kPageTokens == 0, "an export is of whole blocks");
  return absl::OkStatus();
}

}  // namespace

struct ExportWriter::Hash {
  crypto_sign_state state;
};

ExportWriter::ExportWriter(std::unique_ptr<WholeFile> file, const SigningKey& key)
    : key_(key), hash_(std::make_unique<Hash>()), file_(std::move(file)) {
  crypto_sign_init(&hash_->state);
}

ExportWriter::~ExportWriter() = default;

absl::StatusOr<std::unique_ptr<ExportWriter>> ExportWriter::Create(const std::string& path,
                                                                   ExportHeader header,
                                                                   const SigningKey& key) {
  TANDEM_RETURN_IF_ERROR(CheckHeader(header));
  if (std::error_code error; std::filesystem::is_directory(path, error)) {
    return InvalidArgument("{}: it is a directory; name a file", path);
  }
  TANDEM_ASSIGN_OR_RETURN(auto file, WholeFile::Create(path));
  std::unique_ptr<ExportWriter> writer(new ExportWriter(std::move(file), key));
  writer->records_left_ = header.records;
  header.signer = key.public_key();
  header.model.resize(std::min<size_t>(header.model.size(), kMostExportNameBytes));
  core::WireWriter bytes;
  bytes(ExportFileHeader{.tokens = static_cast<uint32_t>(header.tokens.size()),
                         .kv_heads = static_cast<uint32_t>(header.kv_heads),
                         .groups = static_cast<uint32_t>(header.groups),
                         .records = static_cast<uint32_t>(header.records),
                         .name_bytes = static_cast<uint32_t>(header.model.size()),
                         .state_groups = static_cast<uint32_t>(header.state_groups),
                         .fingerprint = header.fingerprint,
                         .signer = header.signer});
  TANDEM_CHECK(bytes.bytes().size() == kExportHeaderBytes, "size of an export's header");
  bytes.Raw(std::as_bytes(std::span(header.model)));
  bytes.Raw(std::as_bytes(std::span(header.tokens)));
  TANDEM_RETURN_IF_ERROR(writer->Write(bytes.bytes()));
  return writer;
}

absl::Status ExportWriter::Write(std::span<const std::byte> bytes) {
  crypto_sign_update(&hash_->state, reinterpret_cast<const unsigned char*>(bytes.data()),
                     bytes.size());
  bytes_ += static_cast<int64_t>(bytes.size());
  return file_->Write(bytes);
}

absl::Status ExportWriter::Add(const ExportPlace& place, std::vector<std::byte> record) {
  TANDEM_CHECK(records_left_ > 0, "records of an export");
  --records_left_;
  // The hash would tell of the tenant whose tokens they were.
  MoveRecord(record, BlockHash{});
  const ExportEntry entry{.block = static_cast<uint32_t>(place.block),
                          .group = static_cast<uint32_t>(place.group),
                          .kv_head = static_cast<uint32_t>(place.kv_head),
                          .record_bytes = static_cast<uint32_t>(record.size())};
  TANDEM_RETURN_IF_ERROR(Write(core::Encode(entry)));
  return Write(record);
}

absl::Status ExportWriter::Finish() {
  TANDEM_CHECK(records_left_ == 0, "records of an export");
  std::array<unsigned char, kExportSignatureBytes> signature{};
  static_assert(kExportSignatureBytes == crypto_sign_BYTES);
  crypto_sign_final_create(&hash_->state, signature.data(), nullptr, key_.secret().data());
  TANDEM_RETURN_IF_ERROR(Write(std::as_bytes(std::span(signature))));
  return file_->Finish();
}

}  // namespace tandem::kv_store
