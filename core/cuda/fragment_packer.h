#pragma once

#include <cstddef>
#include <cstdint>

#include "core/cpu/linear/packed_matrix.h"
#include "core/model/dtype.h"
#include "core/model/shard.h"

namespace tandem::core {

/// Shuffles a tile of quantized weights from the order of core/cpu/linear/tile_format.h into that
/// of core/cuda/kernels/fragment_format.h. first_block: 0 to 7. out: tile_bytes of the dtype's
/// fragment format. Thread safety: any thread.
void PackFragments(DType dtype, const std::byte* tile, int64_t first_block, int64_t blocks,
                   std::byte* out);

/// Bytes of a part of a matrix in the memory of a GPU: those of fragments, or of the tiles of
/// PackedMatrix for floats.
int64_t BytesOnGpu(DType dtype, int64_t rows, Range columns, ActivationMode mode);

}  // namespace tandem::core
