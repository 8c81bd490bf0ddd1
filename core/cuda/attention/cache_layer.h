#pragma once

#include <cstddef>
#include <cstdint>

#include "core/model/kv_view.h"

/// Where kernels find the tokens of a step and their cache. All pointers are to memory of the
/// device.
namespace tandem::core {

/// Where the tokens of a step stand.
struct TokenPlaces {
  const int32_t* positions = nullptr;     // [tokens]
  const int32_t* table_begins = nullptr;  // [groups, tokens] into `blocks`
  const int32_t* blocks = nullptr;        // block tables of all sequences and groups
  int64_t tokens = 0;
};

/// One layer of the cache, and what attention reads of the step's places.
struct CacheLayer {
  std::byte* base = nullptr;  // of block 0
  int64_t block_stride = 0;
  int64_t page_bytes = 0;                 // keys and values
  const int32_t* table_begins = nullptr;  // [tokens] of the layer's group
};
/// A layer of the cache in a step.
inline CacheLayer LayerOf(const KvView& cache, int layer, const TokenPlaces& places) {
  const KvView::LayerPlace& place = cache.place(layer);
  return {place.base, place.block_stride, cache.geometry().PageBytes(),
          places.table_begins + place.group * places.tokens};
}

}  // namespace tandem::core
