#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "core/arena.h"
#include "core/dtype.h"
#include "core/shard.h"
#include "core/status.h"
#include "core/thread_pool.h"

namespace tandem::core {

/// What multiplies quantized weights: 8-bit codes per block of 32 columns, or floats (the slow
/// reference).
enum class ActivationMode { kQ8, kF32 };

/// A matrix as it lies in the model file: row-major, rows whole in blocks of its dtype.
struct MatrixSource {
  std::string_view name;  // for messages
  DType dtype = DType::kF32;
  const std::byte* data = nullptr;
  int64_t rows = 0;
  int64_t columns = 0;
};

inline constexpr int kTileRows = 16;  // logical lanes (numerics.md, rule 1)
inline constexpr int kBlockColumns = 32;

/// A part of a matrix, packed into tiles of 16 rows x 32 columns for the kernels. Rows are padded
/// with zeros to whole tiles. Immutable after Pack; safe to read from any thread.
class PackedMatrix {
 public:
  /// Layout of a tile's codes; see packed_matrix.cpp.
  enum class Kind : uint8_t { kEmpty, kF32, kF16, kBF16, kU4, kU8 };

  PackedMatrix() = default;

  /// Packs rows x columns of the source into memory of `arena`, on all threads of the pool.
  /// columns.begin must be a multiple of 32 (and columns.count too, for quantized types, unless it
  /// reaches the end). With ActivationMode::kF32 quantized weights are expanded to F32. Either
  /// range may be empty.
  static absl::StatusOr<PackedMatrix> Pack(const MatrixSource& source, Range rows, Range columns,
                                           ActivationMode mode, Arena& arena, ThreadPool& pool);

  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  Kind kind() const { return kind_; }
  /// True if products with it take the 8-bit codes of Activations.
  bool quantized() const { return kind_ == Kind::kU4 || kind_ == Kind::kU8; }
  int64_t bytes() const { return bytes_; }

  // Kernel's view; the meaning is in packed_matrix.cpp.
  int64_t tiles() const { return (rows_ + kTileRows - 1) / kTileRows; }
  int64_t blocks() const { return (columns_ + kBlockColumns - 1) / kBlockColumns; }
  const std::byte* tile(int64_t t) const { return data_ + t * tile_bytes_; }
  int zero_point() const { return zero_point_; }
  bool has_minimum() const { return has_minimum_; }
  int scales_per_block() const { return scales_per_block_; }  // 1, or 2 for types with groups of 16

 private:
  Kind kind_ = Kind::kEmpty;
  bool has_minimum_ = false;
  int zero_point_ = 0;
  int scales_per_block_ = 1;
  int64_t rows_ = 0;
  int64_t columns_ = 0;
  int64_t tile_bytes_ = 0;
  int64_t bytes_ = 0;
  std::byte* data_ = nullptr;  // owned by the arena
};

}  // namespace tandem::core
