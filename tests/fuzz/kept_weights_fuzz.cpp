#include <algorithm>
#include <cstdlib>
#include <vector>

#include "kv_store/weights/kept_format.h"

/// The head and the index of a file of kept weights. What is accepted has its matrices and pieces
/// within the file, and is written as it was read.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tandem::kv_store;
  std::vector<std::byte> bytes(size);
  std::transform(data, data + size, bytes.begin(), [](uint8_t byte) { return std::byte{byte}; });
  static_cast<void>(DecodeKeptHead(bytes));
  if (size >= kKeptHeadBytes) {
    KeptHeadBytes head{};
    std::copy_n(bytes.begin(), head.size(), head.begin());
    // Under a right checksum, so that the fields are reached.
    const uint64_t checksum = HashOf(std::span(head).first(head.size() - sizeof(uint64_t)));
    std::ranges::copy(std::as_bytes(std::span(&checksum, 1)), head.end() - sizeof(checksum));
    const auto decoded = DecodeKeptHead(head);
    if (decoded.ok() && decoded->index_begin > decoded->file_bytes - decoded->index_bytes) {
      std::abort();
    }
  }
  constexpr int64_t kMostEnd = int64_t{1} << 40;
  const auto index = DecodeKeptIndex(bytes, kMostEnd);
  if (!index.ok()) return 0;
  if (EncodeKeptIndex(*index) != bytes) std::abort();
  for (const KeptMatrix& matrix : index->matrices) {
    if (matrix.begin < 0 || matrix.begin + matrix.bytes > index->end) std::abort();
  }
  for (int64_t piece = 0; piece < KeptPieces(index->end); ++piece) {
    const KeptPiece place = KeptPieceAt(piece, index->end);
    if (place.bytes <= 0 || place.begin + place.bytes > index->end) std::abort();
  }
  return 0;
}
