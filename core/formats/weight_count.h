#pragma once

#include <cstdint>

#include "core/formats/model_file.h"

namespace tandem::core {

/// What one token asks of a model's matrices: those of all layers, and the head (the embedding
/// table where the head is tied to it; otherwise only single rows of that are read, which do not
/// count, nor do vectors).
struct WeightCount {
  int64_t bytes = 0;          // of the file's tensors
  int64_t multiply_adds = 0;  // one a weight
  // Of the multiply-adds, those with quantized weights, which are done in 8-bit integers.
  int64_t quantized_layers = 0;
  int64_t quantized_head = 0;
};

WeightCount CountWeights(const ModelFile& file);

}  // namespace tandem::core
