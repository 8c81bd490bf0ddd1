#include "kv_store/export/export_writer.h"

#include <fcntl.h>
#include <sodium.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "core/base/check.h"

namespace tandem::kv_store {
namespace {

absl::Status WriteError(const std::string& path, int error) {
  if (error == ENOSPC || error == EDQUOT) {
    return ResourceExhausted("{}: the disk is full; make room or write elsewhere", path);
  }
  return Unavailable("{}: cannot be written: {}", path, std::strerror(error));
}

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

std::filesystem::path FolderOf(const std::string& path) {
  std::filesystem::path parent = std::filesystem::path(path).parent_path();
  return parent.empty() ? "." : parent;
}

}  // namespace

struct ExportWriter::Hash {
  crypto_sign_state state;
};

ExportWriter::ExportWriter(std::string path, const SigningKey& key)
    : path_(std::move(path)), key_(key), hash_(std::make_unique<Hash>()) {
  crypto_sign_init(&hash_->state);
}

ExportWriter::~ExportWriter() {
  if (file_ >= 0) close(file_);
  if (!temporary_.empty()) unlink(temporary_.c_str());
}

absl::StatusOr<std::unique_ptr<ExportWriter>> ExportWriter::Create(const std::string& path,
                                                                   ExportHeader header,
                                                                   const SigningKey& key) {
  TANDEM_RETURN_IF_ERROR(CheckHeader(header));
  if (std::error_code error; std::filesystem::is_directory(path, error)) {
    return InvalidArgument("{}: it is a directory; name a file", path);
  }
  std::unique_ptr<ExportWriter> writer(new ExportWriter(path, key));
  // Without a name nothing is left of it if this process is killed.
  writer->file_ = open(FolderOf(path).c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
  if (writer->file_ < 0) {
    // Not every file system has such files.
    std::string temporary = path + ".XXXXXX";
    writer->file_ = mkostemp(temporary.data(), O_CLOEXEC);  // mode 0600
    if (writer->file_ < 0) return WriteError(path, errno);
    writer->temporary_ = temporary;
  }
  writer->records_left_ = header.records;
  header.signer = key.public_key();
  header.model.resize(std::min<size_t>(header.model.size(), kMostExportNameBytes));
  core::WireWriter bytes;
  bytes(ExportFileHeader{.tokens = static_cast<uint32_t>(header.tokens.size()),
                         .kv_heads = static_cast<uint32_t>(header.kv_heads),
                         .groups = static_cast<uint32_t>(header.groups),
                         .records = static_cast<uint32_t>(header.records),
                         .name_bytes = static_cast<uint32_t>(header.model.size()),
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
  while (!bytes.empty()) {
    const ssize_t written = write(file_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return WriteError(path_, errno);
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
  return absl::OkStatus();
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
  if (fsync(file_) != 0) return WriteError(path_, errno);
  if (temporary_.empty()) {
    const std::string unnamed = fmt::format("/proc/self/fd/{}", file_);
    const std::string name = fmt::format("{}.{:08x}", path_, randombytes_random());
    if (linkat(AT_FDCWD, unnamed.c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW) != 0) {
      return WriteError(path_, errno);
    }
    temporary_ = name;
  }
  if (rename(temporary_.c_str(), path_.c_str()) != 0) return WriteError(path_, errno);
  temporary_.clear();
  // So that the name outlives a loss of power, too.
  if (const int directory = open(FolderOf(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
      directory >= 0) {
    static_cast<void>(fsync(directory));
    close(directory);
  }
  return absl::OkStatus();
}

}  // namespace tandem::kv_store
