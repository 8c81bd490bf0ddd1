#include "core/cuda/cuda_weight.h"

namespace tandem::core {

absl::StatusOr<std::unique_ptr<CudaWeight>> CudaWeight::Pack(const MatrixSource& source, Range rows,
                                                             Range columns, ActivationMode mode,
                                                             CudaMemory& memory, ThreadPool& pool) {
  Arena arena;  // until the tiles are across
  TANDEM_ASSIGN_OR_RETURN(const PackedMatrix packed,
                          PackedMatrix::Pack(source, rows, columns, mode, arena, pool));
  std::unique_ptr<CudaWeight> weight(new CudaWeight);
  weight->bytes_ = packed.bytes();
  absl::StatusOr<std::shared_ptr<std::byte>> tiles = memory.AllocateZeroed(packed.bytes());
  if (absl::IsResourceExhausted(tiles.status())) {
    return ResourceExhausted("tensor {}: {}", source.name, Message(tiles.status()));
  }
  TANDEM_RETURN_IF_ERROR(tiles.status());
  weight->tiles_ = *std::move(tiles);
  if (packed.bytes() > 0) {
    const CopyRun run{.device = weight->tiles_.get(),
                      .host = const_cast<std::byte*>(packed.tile(0)),
                      .bytes = static_cast<size_t>(packed.bytes())};
    TANDEM_RETURN_IF_ERROR(memory.CopyFromHost({&run, 1}));
  }
  weight->matrix_ = {.tiles = weight->tiles_.get(),
                     .dtype = packed.dtype(),
                     .rows = packed.rows(),
                     .columns = packed.columns(),
                     .tile_bytes = packed.tile_bytes(),
                     .first_block = packed.first_block()};
  return weight;
}

std::unique_ptr<CudaWeight> CudaWeight::OfTiles(const TileMatrix& matrix, int64_t bytes,
                                                std::shared_ptr<std::byte> tiles) {
  std::unique_ptr<CudaWeight> weight(new CudaWeight);
  weight->matrix_ = matrix;
  weight->bytes_ = bytes;
  weight->tiles_ = std::move(tiles);
  return weight;
}

}  // namespace tandem::core
