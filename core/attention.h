#pragma once

#include <cstdint>
#include <span>

#include "core/isa.h"
#include "core/kv_view.h"

namespace tandem::core {

/// Writes one token's key and value of one KV head into its page, rounded to the cache's dtype
/// (F16C rounding). key, value: [head_dim]; slot: position mod 64.
void StoreKeyValue(const KvGeometry& geometry, const KvPage& page, int slot,
                   std::span<const float> key, std::span<const float> value);

/// Which pages one head's attention reads.
struct HeadPages {
  const KvView* cache = nullptr;
  int layer = 0;
  int kv_head = 0;                  // within the rank
  std::span<const BlockId> blocks;  // block table of the layer's group
};

/// Attention of one query position p over (p - window, p], or [0, p] where window is 0, chunk by
/// chunk of absolute position.
///
/// Every 256 absolute positions form a chunk with its own maximum, sum and output; chunks are
/// combined in ascending order from the common maximum. Within a chunk lane = position mod 16 for
/// scores and sums, head dimensions in the lanes for outputs. Masked positions are skipped, so
/// blocks left behind by the window (kNoBlock) are never touched. The order is fixed by position
/// alone: the same bits in prefill, decode and replay, and for every Isa. query: [head_dim],
/// already rotated; scale multiplies scores; out: [head_dim]. Source: Milakov & Gimelshein 2018
/// (softmax by chunks); order: numerics.md, rule 4.
void AttendHead(Isa isa, std::span<const float> query, const HeadPages& pages, int64_t position,
                int window, float scale, std::span<float> out);

}  // namespace tandem::core
