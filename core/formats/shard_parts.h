#pragma once

#include <cstdint>
#include <vector>

#include "core/formats/model_file.h"
#include "core/model/dtype.h"
#include "core/model/shard.h"

namespace tandem::core {

/// A part of a matrix of the file.
struct ShardPart {
  DType dtype = DType::kF32;
  int64_t rows = 0;
  Range columns;
};

/// The matrices that Transformer::Load packs of a shard.
std::vector<ShardPart> ShardParts(const ModelFile& file, const Shard& shard);

}  // namespace tandem::core
