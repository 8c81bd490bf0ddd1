#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"

/// The layout of a file of kept weights (docs/state.md).
namespace tandem::kv_store {

inline constexpr uint32_t kKeptVersion = 1;
/// How the name begins of a file that has one before it is whole.
inline constexpr std::string_view kUnfinishedWeights = ".unfinished-";
inline constexpr int64_t kKeptHeadBytes = 64;
inline constexpr int64_t kKeptAlignment = 64;                 // of matrices
inline constexpr int64_t kKeptPieceBytes = int64_t{4} << 20;  // that a checksum is of
inline constexpr size_t kMostKeptMatrices = size_t{1} << 20;  // of a shard
inline constexpr size_t kMostKeptPieces = size_t{1} << 24;
inline constexpr size_t kLongestKeptKey = 4096;

struct KeptMatrix {
  uint64_t name = 0;  // HashOf its name
  int64_t begin = 0;  // in the file
  int64_t bytes = 0;
};

/// What a file says behind its matrices.
struct KeptIndex {
  std::string key;                   // what the bytes depend on
  int64_t end = 0;                   // of the matrices, in the file
  std::vector<KeptMatrix> matrices;  // in the order in which they lie there
  std::vector<uint64_t> checksums;   // HashOf the pieces of [kKeptHeadBytes, end)
};

/// Where the index is, and that it is whole: written last.
struct KeptHead {
  int64_t file_bytes = 0;
  int64_t index_begin = 0;
  int64_t index_bytes = 0;
  uint64_t index_checksum = 0;
};

using KeptHeadBytes = std::array<std::byte, kKeptHeadBytes>;
KeptHeadBytes EncodeKeptHead(const KeptHead& head);
/// kDataLoss, saying what is wrong, for all that EncodeKeptHead did not write, and where the index
/// would lie outside of the file.
absl::StatusOr<KeptHead> DecodeKeptHead(std::span<const std::byte> bytes);

std::vector<std::byte> EncodeKeptIndex(const KeptIndex& index);
/// kDataLoss for all that EncodeKeptIndex did not write, and where matrices overlap or lie outside
/// of [kKeptHeadBytes, end), or pieces have no checksum. Afterwards end <= most_end.
absl::StatusOr<KeptIndex> DecodeKeptIndex(std::span<const std::byte> bytes, int64_t most_end);

/// How many bytes the index of so many matrices and bytes of them has, at most.
int64_t MostIndexBytes(size_t key_bytes, size_t matrices, int64_t bytes);

/// The begin and the bytes of a piece of [kKeptHeadBytes, end).
struct KeptPiece {
  int64_t begin = 0;
  int64_t bytes = 0;
};
int64_t KeptPieces(int64_t end);
KeptPiece KeptPieceAt(int64_t piece, int64_t end);

/// XXH3, 64 bits.
uint64_t HashOf(std::span<const std::byte> bytes);

}  // namespace tandem::kv_store
