#include "core/cpu/linear/packed_matrix.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <vector>

#include "core/cpu/linear/tile_packer.h"

namespace tandem::core {
namespace {

// Bytes of a file that are mapped at a time: enough work between two waits of the threads for each
// other.
constexpr int64_t kRunBytes = int64_t{4} << 20;

/// What of a source goes into a matrix.
struct Part {
  const MatrixSource& source;
  Range rows;
  Range columns;

  const std::byte* row(int64_t index) const {
    return source.data + (rows.begin + index) * RowBytes(source.dtype, source.columns);
  }
};

bool IsWithin(const Range& range, int64_t size) {
  return range.begin >= 0 && range.count >= 0 && range.begin <= size &&
         range.count <= size - range.begin;
}

absl::Status CheckPart(const MatrixSource& source, const Range& rows, const Range& columns) {
  if (source.rows < 0 || source.columns < 0 || source.columns % BlockElements(source.dtype) != 0) {
    return InvalidArgument("tensor {}: {} x {} is no shape for {}, whose blocks are {} columns",
                           source.name, source.rows, source.columns, DTypeName(source.dtype),
                           BlockElements(source.dtype));
  }
  if (!IsWithin(rows, source.rows) || !IsWithin(columns, source.columns)) {
    return InvalidArgument(
        "tensor {}: rows [{}, +{}) and columns [{}, +{}) asked for, but it is {} x {}", source.name,
        rows.begin, rows.count, columns.begin, columns.count, source.rows, source.columns);
  }
  // No columns may lie anywhere: a rank without any stands at the end of an odd width.
  if (columns.count == 0) return absl::OkStatus();
  if (columns.begin % kBlockColumns != 0 ||
      (columns.count % kBlockColumns != 0 && columns.end() != source.columns)) {
    return InvalidArgument(
        "tensor {}: columns [{}, +{}) asked for; cuts must be at multiples of {}", source.name,
        columns.begin, columns.count, kBlockColumns);
  }
  return absl::OkStatus();
}

void PackQuantizedTile(const Part& part, int64_t first_row, int rows, std::byte* tile) {
  TileRows of_rows = {};
  for (int r = 0; r < rows; ++r) of_rows[r] = part.row(first_row + r);
  const DType dtype = part.source.dtype;
  const int64_t first_block = part.columns.begin / kBlockColumns;
  const int64_t blocks = part.columns.count / kBlockColumns;
  if (rows == kTileRows && PackWholeTile(dtype, of_rows, first_block, blocks, tile)) return;
  PackTileByRows(dtype, of_rows, first_block, blocks, tile);
}

/// F32, F16 and BF16: a transposition of elements.
template <typename Element>
void PackPlainTile(const Part& part, int64_t first_row, int rows, std::byte* tile) {
  TileRows of_rows = {};
  for (int r = 0; r < rows; ++r) {
    of_rows[r] =
        part.row(first_row + r) + part.columns.begin * static_cast<int64_t>(sizeof(Element));
  }
  if (rows == kTileRows) {
    constexpr auto kPackWhole = sizeof(Element) == 4 ? PackWholeTile32 : PackWholeTile16;
    return kPackWhole(of_rows, part.columns.count, tile);
  }
  for (int r = 0; r < rows; ++r) {
    const std::byte* from = of_rows[r];
    std::byte* to = tile + r * sizeof(Element);
    for (int64_t column = 0; column < part.columns.count; ++column) {
      std::memcpy(to + column * kTileRows * sizeof(Element), from + column * sizeof(Element),
                  sizeof(Element));
    }
  }
}

void PackExpandedTile(const Part& part, int64_t first_row, int rows, std::byte* tile) {
  const DType dtype = part.source.dtype;
  const int64_t unit = BlockElements(dtype);
  const int64_t begin = part.columns.begin / unit * unit;
  const int64_t end = (part.columns.end() + unit - 1) / unit * unit;
  std::vector<float> row(static_cast<size_t>(end - begin));
  for (int r = 0; r < rows; ++r) {
    Dequantize(dtype, part.row(first_row + r) + RowBytes(dtype, begin), end - begin, row.data());
    const float* from = row.data() + (part.columns.begin - begin);
    std::byte* to = tile + r * sizeof(float);
    for (int64_t column = 0; column < part.columns.count; ++column) {
      std::memcpy(to + column * kTileRows * sizeof(float), from + column, sizeof(float));
    }
  }
}

}  // namespace

absl::StatusOr<PackedMatrix> PackedMatrix::Pack(const MatrixSource& source, Range rows,
                                                Range columns, ActivationMode mode,
                                                PackedMemory& memory, ThreadPool& pool) {
  TANDEM_RETURN_IF_ERROR(CheckPart(source, rows, columns));
  const bool quantized = TileFormatOf(source.dtype).quantized();
  const bool expand = quantized && mode == ActivationMode::kF32;

  PackedMatrix matrix;
  matrix.dtype_ = expand ? DType::kF32 : source.dtype;
  matrix.rows_ = rows.count;
  matrix.columns_ = columns.count;
  const TileFormat format = TileFormatOf(matrix.dtype_);
  const int64_t first_block = columns.begin / kBlockColumns;
  matrix.first_block_ = first_block % kSuperBlocks;
  int64_t bytes = 0;
  if (__builtin_mul_overflow(matrix.blocks(), format.block_bytes(), &matrix.tile_bytes_) ||
      __builtin_add_overflow(matrix.tile_bytes_,
                             format.headers(first_block, matrix.blocks()) * format.header_bytes(),
                             &matrix.tile_bytes_) ||
      __builtin_mul_overflow(matrix.tiles(), matrix.tile_bytes_, &bytes)) {
    return InvalidArgument("tensor {}: {} rows of {} columns are more than memory can address",
                           source.name, rows.count, columns.count);
  }
  if (bytes == 0) return matrix;
  const absl::StatusOr<PackedMemory::Place> place = memory.Take(source.name, bytes);
  if (!place.ok()) {
    return absl::Status(place.status().code(),
                        fmt::format("tensor {}: {}", source.name, Message(place.status())));
  }
  matrix.data_ = place->data;
  if (place->filled) return matrix;

  const Part part{source, rows, columns};
  const auto pack_tile = [&](int64_t t) {
    const int64_t first_row = t * kTileRows;
    const auto tile_rows = static_cast<int>(std::min<int64_t>(kTileRows, rows.count - first_row));
    std::byte* tile = matrix.data_ + t * matrix.tile_bytes_;
    if (expand) {
      PackExpandedTile(part, first_row, tile_rows, tile);
    } else if (quantized) {
      PackQuantizedTile(part, first_row, tile_rows, tile);
    } else if (source.dtype == DType::kF32) {
      PackPlainTile<uint32_t>(part, first_row, tile_rows, tile);
    } else {
      PackPlainTile<uint16_t>(part, first_row, tile_rows, tile);
    }
  };
  // A run of tiles at a time, after which its pages of the file leave this process again: else file
  // and tiles would both be in memory.
  const int64_t run_tiles =
      std::max<int64_t>(kRunBytes / (kTileRows * RowBytes(source.dtype, source.columns)), 1);
  const auto bytes_of_run = [&](int64_t first) {
    const int64_t end = std::min((first + run_tiles) * kTileRows, rows.count);
    return std::span(part.row(first * kTileRows), part.row(end));
  };
  if (source.file != nullptr) source.file->WillNeed(bytes_of_run(0));
  for (int64_t first = 0; first < matrix.tiles(); first += run_tiles) {
    const int64_t next = first + run_tiles;
    const bool last = next >= matrix.tiles();
    if (source.file != nullptr && !last) source.file->WillNeed(bytes_of_run(next));
    pool.ParallelFor(std::min(run_tiles, matrix.tiles() - first),
                     [&](int64_t t, int) { pack_tile(first + t); });
    if (source.file != nullptr) source.file->Release(bytes_of_run(first));
  }
  return matrix;
}

int64_t PackedMatrix::BytesOf(DType dtype, int64_t rows, Range columns, ActivationMode mode) {
  const bool expand = TileFormatOf(dtype).quantized() && mode == ActivationMode::kF32;
  const TileFormat format = TileFormatOf(expand ? DType::kF32 : dtype);
  const int64_t tiles = (rows + kTileRows - 1) / kTileRows;
  const int64_t blocks = (columns.count + kBlockColumns - 1) / kBlockColumns;
  return tiles * (blocks * format.block_bytes() +
                  format.headers(columns.begin / kBlockColumns, blocks) * format.header_bytes());
}

}  // namespace tandem::core
