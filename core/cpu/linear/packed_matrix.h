#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "core/base/arena.h"
#include "core/base/status.h"
#include "core/base/thread_pool.h"
#include "core/cpu/linear/tile_format.h"
#include "core/model/matrix_source.h"
#include "core/model/shard.h"

namespace tandem::core {

/// What multiplies quantized weights: 8-bit codes per block of 32 columns, or floats (the slow
/// reference).
enum class ActivationMode { kQ8, kF32 };

/// Of the bytes that PackedMatrix::Pack makes. One more wherever they change: what an earlier
/// program packed is then not taken for what this one would.
inline constexpr int kPackingVersion = 1;

/// A part of a matrix, packed into tiles of 16 rows x 32 columns for the kernels. Rows are padded
/// with zeros to whole tiles. Immutable after Pack; safe to read from any thread.
class PackedMatrix {
 public:
  PackedMatrix() = default;

  /// Packs rows x columns of the source into a place of `memory`, on all threads of the pool; reads
  /// nothing of the source where that is filled already.
  /// columns.begin must be a multiple of 32, and columns.count too unless it reaches the end. With
  /// ActivationMode::kF32 quantized weights are expanded to F32. Either range may be empty. Pages
  /// of source.file do not stay in memory. Errors name the matrix: kInvalidArgument for a bad range
  /// or shape, kResourceExhausted for want of memory.
  static absl::StatusOr<PackedMatrix> Pack(const MatrixSource& source, Range rows, Range columns,
                                           ActivationMode mode, PackedMemory& memory,
                                           ThreadPool& pool);

  /// Bytes of the tiles that Pack would make of such a part.
  static int64_t BytesOf(DType dtype, int64_t rows, Range columns, ActivationMode mode);

  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  /// Of the tiles: the source's, or F32 where quantized weights were expanded.
  DType dtype() const { return dtype_; }
  /// True if products with it take the 8-bit codes of Activations.
  bool quantized() const { return TileFormatOf(dtype_).quantized(); }
  /// Bytes of the tiles.
  int64_t bytes() const { return tiles() * tile_bytes_; }

  // Kernels' view; the meaning is in tile_format.h.
  int64_t tiles() const { return (rows_ + kTileRows - 1) / kTileRows; }
  int64_t blocks() const { return (columns_ + kBlockColumns - 1) / kBlockColumns; }
  const std::byte* tile(int64_t t) const { return data_ + t * tile_bytes_; }
  int64_t tile_bytes() const { return tile_bytes_; }
  /// Where a tile begins within a super-block of the file: 0 to 7 blocks after its beginning.
  int64_t first_block() const { return first_block_; }

 private:
  DType dtype_ = DType::kF32;
  int64_t rows_ = 0;
  int64_t columns_ = 0;
  int64_t tile_bytes_ = 0;
  int64_t first_block_ = 0;
  std::byte* data_ = nullptr;  // owned by the memory
};

}  // namespace tandem::core
