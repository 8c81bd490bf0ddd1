#include "kv_store/weights/kept_format.h"

// xxhash's functions become inline, for the instruction set that this file is compiled for.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>

#include "core/base/wire.h"

namespace tandem::kv_store {
namespace {

constexpr uint64_t kMagic = 0x31535754444E4154;  // "TANDWTS1"
constexpr std::string_view kWhat = "kept weights";

}  // namespace

template <typename Archive>
void Fields(Archive& archive, KeptHead& head) {
  uint64_t magic = kMagic;
  uint32_t version = kKeptVersion;
  archive(magic);
  archive.Require(magic == kMagic, "these are none");
  archive(version);
  archive.Require(version == kKeptVersion, "version {}, this program knows {}", version,
                  kKeptVersion);
  archive(head.file_bytes, head.index_begin, head.index_bytes, head.index_checksum);
}

template <typename Archive>
void Fields(Archive& archive, KeptMatrix& matrix) {
  archive(matrix.name, matrix.begin, matrix.bytes);
}

template <typename Archive>
void Fields(Archive& archive, KeptIndex& index) {
  archive(core::AtMost(index.key, kLongestKeptKey, "bytes of a key"), index.end,
          core::AtMost(index.matrices, kMostKeptMatrices, "matrices"),
          core::AtMost(index.checksums, kMostKeptPieces, "checksums"));
}

namespace {

std::span<const std::byte> NumberBytes(const uint64_t& number) {
  return std::as_bytes(std::span(&number, 1));
}

absl::Status Wrong(std::string_view what) {
  return absl::DataLossError(fmt::format("{}: {}", kWhat, what));
}

/// That a file of `end` bytes may have them.
absl::Status CheckPlaces(const KeptIndex& index, int64_t most_end) {
  if (index.end < kKeptHeadBytes || index.end > most_end) {
    return Wrong(fmt::format("matrices up to byte {} of {}", index.end, most_end));
  }
  int64_t free = kKeptHeadBytes;
  for (const KeptMatrix& matrix : index.matrices) {
    if (matrix.begin < free || matrix.begin > index.end || matrix.begin % kKeptAlignment != 0 ||
        matrix.bytes < 0 || matrix.bytes > index.end - matrix.begin) {
      return Wrong(
          fmt::format("a matrix of {} bytes at {} of {}", matrix.bytes, matrix.begin, index.end));
    }
    free = matrix.begin + matrix.bytes;
  }
  if (static_cast<int64_t>(index.checksums.size()) != KeptPieces(index.end)) {
    return Wrong(fmt::format("{} checksums of {} bytes", index.checksums.size(), index.end));
  }
  return absl::OkStatus();
}

}  // namespace

KeptHeadBytes EncodeKeptHead(const KeptHead& head) {
  KeptHeadBytes bytes{};
  core::WireWriter writer;
  KeptHead copy = head;
  Fields(writer, copy);
  std::copy(writer.bytes().begin(), writer.bytes().end(), bytes.begin());
  const uint64_t checksum = HashOf(std::span(bytes).first(bytes.size() - sizeof(checksum)));
  std::ranges::copy(NumberBytes(checksum), bytes.end() - sizeof(checksum));
  return bytes;
}

absl::StatusOr<KeptHead> DecodeKeptHead(std::span<const std::byte> bytes) {
  if (bytes.size() != kKeptHeadBytes) return Wrong(fmt::format("{} bytes", bytes.size()));
  const auto checked = bytes.first(bytes.size() - sizeof(uint64_t));
  core::WireReader reader(kWhat, checked);
  KeptHead head;
  Fields(reader, head);
  // Zeros are left over, which the checksum covers.
  if (reader.ok() &&
      !std::ranges::equal(NumberBytes(HashOf(checked)), bytes.subspan(checked.size()))) {
    reader.Fail(Wrong("their head is damaged"));
  }
  if (!reader.ok()) return DamagedInside(reader.Finish());
  if (head.index_begin < kKeptHeadBytes || head.index_bytes < 0 ||
      head.index_begin > head.file_bytes || head.index_bytes > head.file_bytes - head.index_begin) {
    return Wrong(fmt::format("an index of {} bytes at {} of {}", head.index_bytes, head.index_begin,
                             head.file_bytes));
  }
  return head;
}

std::vector<std::byte> EncodeKeptIndex(const KeptIndex& index) {
  core::WireWriter writer;
  KeptIndex copy = index;
  Fields(writer, copy);
  return writer.Take();
}

absl::StatusOr<KeptIndex> DecodeKeptIndex(std::span<const std::byte> bytes, int64_t most_end) {
  core::WireReader reader(kWhat, bytes);
  KeptIndex index;
  Fields(reader, index);
  TANDEM_RETURN_IF_ERROR(DamagedInside(reader.Finish()));
  TANDEM_RETURN_IF_ERROR(CheckPlaces(index, most_end));
  return index;
}

int64_t MostIndexBytes(size_t key_bytes, size_t matrices, int64_t bytes) {
  const KeptIndex none;
  return static_cast<int64_t>(EncodeKeptIndex(none).size() + key_bytes +
                              matrices * 3 * sizeof(int64_t)) +
         KeptPieces(bytes) * static_cast<int64_t>(sizeof(uint64_t));
}

int64_t KeptPieces(int64_t end) {
  return (end - kKeptHeadBytes + kKeptPieceBytes - 1) / kKeptPieceBytes;
}

KeptPiece KeptPieceAt(int64_t piece, int64_t end) {
  const int64_t begin = kKeptHeadBytes + piece * kKeptPieceBytes;
  return {begin, std::min(kKeptPieceBytes, end - begin)};
}

uint64_t HashOf(std::span<const std::byte> bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

}  // namespace tandem::kv_store
