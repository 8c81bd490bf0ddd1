#include "core/cuda/cuda_weight.h"

#include <algorithm>
#include <vector>

#include "core/cuda/fragment_packer.h"
#include "core/cuda/kernels/fragment_format.h"

namespace tandem::core {
namespace {

// Fragments that are shuffled between two copies to the GPU.
constexpr int64_t kRunBytes = int64_t{16} << 20;

absl::Status CopyTo(CudaMemory& memory, const std::byte* from, int64_t bytes, std::byte* to) {
  if (bytes == 0) return absl::OkStatus();
  const CopyRun run{
      .device = to, .host = const_cast<std::byte*>(from), .bytes = static_cast<size_t>(bytes)};
  return memory.CopyFromHost({&run, 1});
}

/// Shuffles tiles on the threads of the pool on their way. tile_bytes: of the fragments.
absl::Status CopyFragments(const PackedMatrix& packed, int64_t tile_bytes, CudaMemory& memory,
                           ThreadPool& pool, std::byte* to) {
  const int64_t run = std::max<int64_t>(kRunBytes / tile_bytes, 1);
  std::vector<std::byte> fragments(static_cast<size_t>(std::min(run, packed.tiles()) * tile_bytes));
  for (int64_t first = 0; first < packed.tiles(); first += run) {
    const int64_t tiles = std::min(run, packed.tiles() - first);
    pool.ParallelFor(tiles, [&](int64_t t, int) {
      PackFragments(packed.dtype(), packed.tile(first + t), packed.first_block(), packed.blocks(),
                    fragments.data() + t * tile_bytes);
    });
    TANDEM_RETURN_IF_ERROR(
        CopyTo(memory, fragments.data(), tiles * tile_bytes, to + first * tile_bytes));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<CudaWeight>> CudaWeight::Pack(const MatrixSource& source, Range rows,
                                                             Range columns, ActivationMode mode,
                                                             CudaMemory& memory, ThreadPool& pool) {
  Arena arena;  // until the tiles are across
  TANDEM_ASSIGN_OR_RETURN(const PackedMatrix packed,
                          PackedMatrix::Pack(source, rows, columns, mode, arena, pool));
  std::unique_ptr<CudaWeight> weight(new CudaWeight);
  const int64_t tile_bytes =
      packed.quantized()
          ? FragmentFormatOf(packed.dtype()).tile_bytes(packed.first_block(), packed.blocks())
          : packed.tile_bytes();
  weight->bytes_ = packed.tiles() * tile_bytes;
  absl::StatusOr<std::shared_ptr<std::byte>> tiles = memory.AllocateZeroed(weight->bytes_);
  if (absl::IsResourceExhausted(tiles.status())) {
    return ResourceExhausted("tensor {}: {}", source.name, Message(tiles.status()));
  }
  TANDEM_RETURN_IF_ERROR(tiles.status());
  weight->tiles_ = *std::move(tiles);
  if (weight->bytes_ > 0) {
    TANDEM_RETURN_IF_ERROR(
        packed.quantized() ? CopyFragments(packed, tile_bytes, memory, pool, weight->tiles_.get())
                           : CopyTo(memory, packed.tile(0), weight->bytes_, weight->tiles_.get()));
  }
  weight->matrix_ = {.tiles = weight->tiles_.get(),
                     .dtype = packed.dtype(),
                     .rows = packed.rows(),
                     .columns = packed.columns(),
                     .tile_bytes = tile_bytes,
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
