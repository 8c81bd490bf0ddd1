#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/base/isa.h"
#include "core/cpu/attention/segment_keys.h"
#include "core/model/kv_view.h"
#include "core/model/sparse_attention.h"

namespace tandem::core {

/// Writes one token's key and value of one KV head into its page, rounded to the cache's dtype
/// (F16C rounding; float8.h with a scale for the key and one for the value). key, value:
/// [head_dim]; slot: position mod 64.
void StoreKeyValue(const KvGeometry& geometry, const KvPage& page, int slot,
                   std::span<const float> key, std::span<const float> value);

/// Which pages one head's attention reads.
struct HeadPages {
  const KvView* cache = nullptr;
  int layer = 0;
  int kv_head = 0;                  // within the rank
  std::span<const BlockId> blocks;  // block table of the layer's group

  /// Which keys queries see besides what the window says; null: all. Their positions were prepared.
  const SparseAttention* sparse = nullptr;

  /// Where pages have keys before rotation and queries see their own segment alone; else null. Then
  /// there is no window.
  const SegmentKeys* segment_keys = nullptr;
};

/// One query of one position, and where its result goes. query, out: [head_dim]
struct AttentionQuery {
  const float* query = nullptr;
  float* out = nullptr;
  int64_t position = 0;
  float slope = 0.0F;  // ALiBi of its head; 0: scores know no distance
};

/// Up to kMostTileQueries (attention_kernels.h) queries of one sequence that share a KV head, and
/// the chunks that any of them sees: what can run on different threads. With `results` of
/// ResultFloats() floats, AttendChunk for each chunk in any order, and then CombineChunks, are
/// AttendQueries, bit for bit.
struct QueryTile {
  /// some: at least one; must outlive the tile.
  static QueryTile Of(std::span<const AttentionQuery> some, const HeadPages& their_pages,
                      int their_window, float score_scale);

  int64_t first_chunk() const { return first_position / kChunkTokens; }
  int64_t chunks() const {
    return pages.sparse == nullptr ? last_position / kChunkTokens - first_chunk() + 1
                                   : static_cast<int64_t>(sparse_chunks.size());
  }
  /// The number of a chunk in the sequence; index: in [0, chunks()).
  int64_t ChunkAt(int64_t index) const {
    return pages.sparse == nullptr ? first_chunk() + index
                                   : sparse_chunks[static_cast<size_t>(index)];
  }
  int64_t ResultFloats() const;
  /// The first page of keys that is read for a chunk; null if it was left behind.
  const void* FirstKeys(int64_t chunk) const;

  std::span<const AttentionQuery> queries;
  HeadPages pages;
  int window = 0;
  float scale = 1.0F;
  int64_t first_position = 0;  // seen by any query
  int64_t last_position = 0;
  // In sparse attention:
  std::vector<SparseSight> sights;     // [queries] what each sees
  std::vector<int32_t> sparse_chunks;  // that any of them sees, ascending
};

/// chunk: in [0, tile.chunks()). then: keys that this thread probably reads next (FirstKeys), which
/// are on their way from memory meanwhile; or null.
void AttendChunk(Isa isa, const QueryTile& tile, int64_t chunk, const void* then, float* results);
void CombineChunks(Isa isa, const QueryTile& tile, const float* results);

/// Attention of queries of one sequence that share a KV head: query heads of its group, positions
/// of a prompt, or both. Each query of position p sees (p - window, p], or [0, p] where window is
/// 0, chunk by chunk of absolute position.
///
/// The order is fixed by position alone: the same bits in prefill, decode and replay, and for every
/// Isa (numerics.md, rule 4). All in float32, `fma` rounding once, exp our own (elementwise.h):
///
///     for each chunk c of 256 absolute positions that holds a visible one, ascending:
///       s[t] = (fma over d ascending of query[d] * key[t][d], from 0) * scale   for visible t
///       m_c  = max of s[t]
///       w[t] = exp(s[t] - m_c)
///       l_c  = 16 lanes, lane = t mod 16, t ascending in each, folded i with i + 8, 4, 2, 1
///       o_c[d] = fma over visible t ascending of w[t] * value[t][d], from 0
///     M = max of m_c;  f_c = exp(m_c - M)
///     out[d] = (fma over c ascending of f_c * o_c[d], from 0)
///              / (fma over c ascending of f_c * l_c, from 0)
///
/// Of a float8 cache, key and value are a 256th of the codes (float8.h). The fma chain of s[t] is
/// multiplied by the key's scale before `scale`; o_c takes w[t] * the value's scale, rounded once,
/// for w[t].
///
/// With a slope, fma(slope, t - position, s[t]) takes the place of s[t] (ALiBi, Press et al. 2022).
///
/// With segment_keys, a query sees the positions of its own segment up to its own. Keys are rotated
/// as they are read, and the cache's values are floats: of float8 a value is code times scale,
/// rounded once.
///
/// In sparse attention (pages.sparse) a chunk without a visible position is skipped, as are pages.
///
/// Positions that are not visible add nothing: what their slots hold, NaN included, never reaches
/// the result, and blocks left behind by the window (kNoBlock) are never touched. A visible score
/// that is NaN or +infinity makes the whole result NaN, for rule 3 to find.
///
/// Keys and values are read once for up to six queries: put those of the same or neighbouring
/// positions next to each other. Queries are already rotated; scale multiplies scores; pages must
/// cover the visible positions. Source: Milakov & Gimelshein 2018 (softmax by chunks).
void AttendQueries(Isa isa, std::span<const AttentionQuery> queries, const HeadPages& pages,
                   int window, float scale);

}  // namespace tandem::core
