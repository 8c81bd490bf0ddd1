#include "kv_store/export/export_reader.h"

#include <fcntl.h>
#include <sodium.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/base/check.h"
#include "core/base/errno_text.h"
#include "core/system/file_kind.h"

namespace tandem::kv_store {
namespace {

// Memory is taken as bytes come, not as a file claims that they will.
constexpr size_t kPieceBytes = size_t{1} << 20;

template <typename... Args>
absl::Status Damaged(fmt::format_string<Args...> format, Args&&... args) {
  return absl::DataLossError("exported KV: " + fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace

absl::StatusOr<size_t> MemorySource::Read(std::span<std::byte> out) {
  const size_t size = std::min(out.size(), bytes_.size());
  if (size > 0) std::memcpy(out.data(), bytes_.data(), size);
  bytes_ = bytes_.subspan(size);
  return size;
}

absl::StatusOr<std::unique_ptr<FileSource>> FileSource::Open(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) {
    if (errno == ENOENT) return NotFound("{}: no such file", path);
    return Unavailable("{}: {}", path, ErrnoText(errno));
  }
  struct stat facts {};
  if (fstat(file, &facts) != 0 || !S_ISREG(facts.st_mode)) {
    close(file);
    return InvalidArgument("{}: it is {}, and no file; it is read twice, so save it first", path,
                           FileKindText(facts.st_mode));
  }
  return std::unique_ptr<FileSource>(new FileSource(path, file, facts.st_size));
}

FileSource::~FileSource() { close(file_); }

absl::StatusOr<size_t> FileSource::Read(std::span<std::byte> out) {
  size_t filled = 0;
  while (filled < out.size()) {
    const ssize_t got = read(file_, out.data() + filled, out.size() - filled);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Unavailable("{}: cannot be read: {}", path_, ErrnoText(errno));
    if (got == 0) break;
    filled += static_cast<size_t>(got);
  }
  return filled;
}

absl::Status FileSource::Rewind() {
  if (lseek(file_, 0, SEEK_SET) == 0) return absl::OkStatus();
  return Unavailable("{}: cannot be read again: {}", path_, ErrnoText(errno));
}

struct ExportReader::Hash {
  crypto_sign_state state;
};

ExportReader::ExportReader(ByteSource& source) : source_(source), hash_(std::make_unique<Hash>()) {
  [[maybe_unused]] const int already = sodium_init();
  crypto_sign_init(&hash_->state);
}

ExportReader::~ExportReader() = default;

absl::Status ExportReader::Fill(std::span<std::byte> out, std::string_view what) {
  TANDEM_ASSIGN_OR_RETURN(const size_t filled, source_.Read(out));
  if (filled < out.size()) {
    return Damaged("it is cut short: it ends after {} bytes, within its {}",
                   bytes_read_ + static_cast<int64_t>(filled), what);
  }
  bytes_read_ += static_cast<int64_t>(filled);
  crypto_sign_update(&hash_->state, reinterpret_cast<const unsigned char*>(out.data()), out.size());
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::byte>> ExportReader::Take(size_t size, std::string_view what) {
  std::vector<std::byte> bytes;
  while (bytes.size() < size) {
    const size_t piece = std::min(kPieceBytes, size - bytes.size());
    bytes.resize(bytes.size() + piece);
    TANDEM_RETURN_IF_ERROR(Fill(std::span(bytes).last(piece), what));
  }
  return bytes;
}

absl::StatusOr<ExportHeader> ExportReader::ReadHeader() {
  TANDEM_ASSIGN_OR_RETURN(const std::vector<std::byte> bytes, Take(kExportHeaderBytes, "header"));
  TANDEM_ASSIGN_OR_RETURN(const auto file, core::Decode<ExportFileHeader>("exported KV", bytes));
  if (file.magic != kExportMagic) {
    return Damaged("it does not begin with {}: it is no file of tandem kv export",
                   std::string(kExportMagic.begin(), kExportMagic.end()));
  }
  if (file.version != kExportVersion) {
    return FailedPrecondition(
        "exported KV: it is of version {}, this program reads {}; export it again with this one",
        file.version, kExportVersion);
  }
  const auto check = [](std::string_view what, uint32_t found, uint32_t low, uint32_t high) {
    if (found >= low && found <= high) return absl::OkStatus();
    return Damaged("{} is {}, expected {} to {}", what, found, low, high);
  };
  TANDEM_RETURN_IF_ERROR(
      check("bytes of its header", file.header_bytes, kExportHeaderBytes, kExportHeaderBytes));
  TANDEM_RETURN_IF_ERROR(check("tokens", file.tokens, core::kPageTokens, kMostExportTokens));
  TANDEM_RETURN_IF_ERROR(check("KV heads", file.kv_heads, 1, kMostExportHeads));
  TANDEM_RETURN_IF_ERROR(check("layer groups", file.groups, 1, kMostExportGroups));
  TANDEM_RETURN_IF_ERROR(check("records", file.records, 1, kMostExportRecords));
  TANDEM_RETURN_IF_ERROR(
      check("bytes of the model's name", file.name_bytes, 0, kMostExportNameBytes));
  TANDEM_RETURN_IF_ERROR(check("layer groups of states", file.state_groups, 0, file.groups - 1));
  if (file.tokens % core::kPageTokens != 0) {
    return Damaged("tokens is {}, expected whole blocks of {}", file.tokens, core::kPageTokens);
  }
  header_.kv_heads = static_cast<int32_t>(file.kv_heads);
  header_.groups = static_cast<int32_t>(file.groups);
  header_.state_groups = static_cast<int32_t>(file.state_groups);
  header_.records = file.records;
  header_.fingerprint = file.fingerprint;
  header_.signer = file.signer;
  TANDEM_ASSIGN_OR_RETURN(const std::vector<std::byte> name, Take(file.name_bytes, "model's name"));
  header_.model.assign(reinterpret_cast<const char*>(name.data()), name.size());
  TANDEM_ASSIGN_OR_RETURN(const std::vector<std::byte> ids,
                          Take(file.tokens * sizeof(int32_t), "tokens"));
  header_.tokens.resize(file.tokens);
  std::memcpy(header_.tokens.data(), ids.data(), ids.size());
  for (const int32_t token : header_.tokens) {
    if (token < 0) return Damaged("{} is no token", token);
  }
  return header_;
}

absl::Status ExportReader::CheckPlace(const ExportPlace& place) {
  const auto blocks = static_cast<int32_t>(header_.tokens.size() / core::kPageTokens);
  const auto wrong = [&](std::string_view expected) {
    return Damaged("record {} is of block {}, layer group {}, KV head {}; expected {}",
                   records_read_, place.block, place.group, place.kv_head, expected);
  };
  if (place.block < 0 || place.block >= blocks || place.group < 0 ||
      place.group >= header_.groups || place.kv_head < 0 || place.kv_head >= header_.kv_heads) {
    return wrong(fmt::format("fewer than {}, {} and {}", blocks, header_.groups, header_.kv_heads));
  }
  // A layer group of a block comes with all its KV heads. No block is left out but before a state.
  if (last_ && last_->kv_head + 1 < header_.kv_heads) {
    ExportPlace next = *last_;
    ++next.kv_head;
    if (place != next) return wrong(fmt::format("KV head {} behind the last", next.kv_head));
    return absl::OkStatus();
  }
  const int32_t block = last_ ? last_->block : -1;
  const bool same = last_ && place.block == block && place.group > last_->group;
  const bool next = header_.state_groups > 0 ? place.block > block : place.block == block + 1;
  if (place.kv_head != 0 || (!same && !next)) {
    return wrong("the next block or layer group, in order, from its KV head 0 on");
  }
  if (!same) groups_of_block_ = 0;
  if (place.group < header_.groups - header_.state_groups) ++groups_of_block_;
  return absl::OkStatus();
}

absl::Status ExportReader::CheckRecordOf(const ExportPlace& place, const RecordHeader& header) {
  const RecordName name{
      .block = {}, .tokens = core::kPageTokens, .kv_head = place.kv_head, .group = place.group};
  if (header.name != name) return Damaged("record {} is not what it is said to be", records_read_);
  if (header.fingerprint != header_.fingerprint) {
    return Damaged("record {} is of another model than the file", records_read_);
  }
  const Shape shape{header.layers, header.head_dim, header.dtype};
  const Shape& expected = shapes_.try_emplace(place.group, shape).first->second;
  if (shape != expected) {
    return Damaged("record {} has another shape than those of its layer group before it",
                   records_read_);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<ExportRecord>> ExportReader::NextRecord() {
  TANDEM_CHECK(!header_.tokens.empty(), "the header is read first");
  const auto blocks = static_cast<int32_t>(header_.tokens.size() / core::kPageTokens);
  if (records_read_ == header_.records) {
    // It ends at a state, or with the pages behind one.
    const int32_t with_pages = header_.groups - header_.state_groups;
    const bool at_state = last_->group >= with_pages;
    if (last_->block + 1 != blocks || last_->kv_head + 1 != header_.kv_heads ||
        (groups_of_block_ != with_pages && !at_state)) {
      return Damaged("its records end in block {} of {}, layer group {} of {}, KV head {} of {}",
                     last_->block + 1, blocks, last_->group + 1, header_.groups, last_->kv_head + 1,
                     header_.kv_heads);
    }
    return std::nullopt;
  }
  const std::string what = fmt::format("record {} of {}", records_read_ + 1, header_.records);
  TANDEM_ASSIGN_OR_RETURN(const std::vector<std::byte> bytes, Take(kExportEntryBytes, what));
  TANDEM_ASSIGN_OR_RETURN(const auto entry, core::Decode<ExportEntry>("exported KV", bytes));
  const auto number = [](uint32_t read) {
    return static_cast<int32_t>(std::min(read, kMostExportTokens));
  };
  ExportRecord record;
  record.place = {
      .block = number(entry.block), .group = number(entry.group), .kv_head = number(entry.kv_head)};
  const uint32_t size = entry.record_bytes;
  TANDEM_RETURN_IF_ERROR(CheckPlace(record.place));
  if (size < kRecordHeaderBytes || size > kMostExportRecordBytes) {
    return Damaged("{} has {} bytes, expected {} to {}", what, size, kRecordHeaderBytes,
                   kMostExportRecordBytes);
  }
  TANDEM_ASSIGN_OR_RETURN(record.bytes, Take(size, what));
  absl::StatusOr<RecordHeader> header = ParseRecord(record.bytes);
  if (!header.ok()) {
    return absl::Status(header.status().code(),
                        fmt::format("exported KV: {}: {}", what, Message(header.status())));
  }
  record.header = *header;
  TANDEM_RETURN_IF_ERROR(CheckRecordOf(record.place, record.header));
  last_ = record.place;
  ++records_read_;
  return record;
}

absl::Status ExportReader::Finish() {
  TANDEM_CHECK(records_read_ == header_.records, "all records are read first");
  std::array<std::byte, kExportSignatureBytes> signature{};
  TANDEM_ASSIGN_OR_RETURN(const size_t filled, source_.Read(signature));
  if (filled < signature.size()) return Damaged("it is cut short: its signature is missing");
  std::byte more{};
  TANDEM_ASSIGN_OR_RETURN(const size_t behind, source_.Read(std::span(&more, 1)));
  if (behind != 0) return Damaged("something follows its signature");
  if (crypto_sign_final_verify(&hash_->state,
                               reinterpret_cast<const unsigned char*>(signature.data()),
                               header_.signer.data()) != 0) {
    return Damaged("its signature is not that of {} over these bytes: it was changed or damaged",
                   PublicKeyText(header_.signer));
  }
  return absl::OkStatus();
}

}  // namespace tandem::kv_store
