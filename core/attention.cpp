#include "core/attention.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "core/attention_kernels.h"
#include "core/elementwise.h"
#include "core/float_convert.h"

namespace tandem::core {
namespace {

// Two registers a lane set: eight of the sixteen registers are four sets.
constexpr AttentionKernels kAttentionScalar = AttentionOf<ScalarLanes<kLanes>, 4>::kTable;
constexpr AttentionKernels kAttentionAvx2 = AttentionOf<Avx2Lanes, 4>::kTable;

const AttentionKernels& Kernels(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return kAttentionScalar;
    case Isa::kAvx2:
      return kAttentionAvx2;
    case Isa::kAvx512:
      return kAttentionAvx512;
  }
  return kAttentionScalar;
}

/// The first position that a query sees.
int64_t FirstVisible(int64_t position, int window) {
  return window == 0 ? 0 : std::max<int64_t>(0, position - window + 1);
}

/// Results of one tile's chunks, until the common maximum is known.
class ChunkResults {
 public:
  ChunkResults(int64_t chunks, int head_dim)
      : head_dim_(head_dim),
        values_(static_cast<size_t>(chunks * kMaxTileQueries * (head_dim + 2))) {}

  /// [head_dim] of one query and chunk.
  float* out(int64_t chunk, int query) {
    return values_.data() + (chunk * kMaxTileQueries + query) * (head_dim_ + 2);
  }
  float& maximum(int64_t chunk, int query) { return out(chunk, query)[head_dim_]; }
  float& sum(int64_t chunk, int query) { return out(chunk, query)[head_dim_ + 1]; }

 private:
  int head_dim_;
  std::vector<float> values_;  // [chunks, 4, head_dim + 2]
};

/// Combines the chunks [first, last] of one query into its result.
void Combine(const AttentionKernels& kernels, ChunkResults& results, int query, int64_t first,
             int64_t last, int head_dim, float* out) {
  float maximum = -std::numeric_limits<float>::infinity();
  for (int64_t c = first; c <= last; ++c) {
    maximum = std::max(maximum, results.maximum(c, query));
  }
  float sum = 0.0F;
  std::fill_n(out, head_dim, 0.0F);
  for (int64_t c = first; c <= last; ++c) {
    const float factor = Exp(results.maximum(c, query) - maximum);
    sum = __builtin_fmaf(factor, results.sum(c, query), sum);
    kernels.accumulate(results.out(c, query), factor, head_dim, out);
  }
  kernels.divide(out, sum, head_dim);
}

/// Up to kMaxTileQueries queries.
void AttendTile(const AttentionKernels& kernels, std::span<const AttentionQuery> queries,
                const HeadPages& pages, int window, float scale) {
  const KvGeometry& geometry = pages.cache->geometry();
  int64_t first = queries[0].position, last = 0;
  for (const AttentionQuery& query : queries) {
    first = std::min(first, FirstVisible(query.position, window));
    last = std::max(last, query.position);
  }
  const int64_t first_chunk = first / kChunkTokens, last_chunk = last / kChunkTokens;
  ChunkResults results(last_chunk - first_chunk + 1, geometry.head_dim);

  AttentionTile tile;
  tile.queries = static_cast<int>(queries.size());
  tile.head_dim = geometry.head_dim;
  tile.scale = scale;
  for (int64_t chunk = first_chunk; chunk <= last_chunk; ++chunk) {
    const int64_t start = chunk * kChunkTokens;
    for (int i = 0; i < kPagesPerChunk; ++i) {
      const int64_t page_start = start + i * kPageTokens;
      tile.keys[i] = tile.values[i] = nullptr;
      if (page_start > last || page_start + kPageTokens <= first) continue;
      const BlockId block = pages.blocks[static_cast<size_t>(page_start / kPageTokens)];
      if (block == kNoBlock) continue;
      const KvPage page = pages.cache->Page(pages.layer, pages.kv_head, block);
      tile.keys[i] = page.keys;
      tile.values[i] = page.values;
    }
    for (size_t q = 0; q < queries.size(); ++q) {
      const int64_t from = FirstVisible(queries[q].position, window) - start;
      const int64_t to = queries[q].position + 1 - start;
      tile.query[q] = queries[q].query;
      tile.first[q] = static_cast<int>(std::clamp<int64_t>(from, 0, kChunkTokens));
      tile.last[q] = static_cast<int>(std::clamp<int64_t>(to, 0, kChunkTokens));
      tile.out[q] = results.out(chunk - first_chunk, static_cast<int>(q));
    }
    (geometry.dtype == KvDtype::kF16 ? kernels.chunk_f16 : kernels.chunk_f32)(tile);
    for (int q = 0; q < tile.queries; ++q) {
      results.maximum(chunk - first_chunk, q) = tile.maximum[q];
      results.sum(chunk - first_chunk, q) = tile.sum[q];
    }
  }
  for (size_t q = 0; q < queries.size(); ++q) {
    const int64_t from = FirstVisible(queries[q].position, window) / kChunkTokens - first_chunk;
    const int64_t to = queries[q].position / kChunkTokens - first_chunk;
    Combine(kernels, results, static_cast<int>(q), from, to, geometry.head_dim, queries[q].out);
  }
}

}  // namespace

void StoreKeyValue(const KvGeometry& geometry, const KvPage& page, int slot,
                   std::span<const float> key, std::span<const float> value) {
  const auto head_dim = static_cast<size_t>(geometry.head_dim);
  const auto token = static_cast<size_t>(slot);
  if (geometry.dtype == KvDtype::kF16) {
    auto* keys = reinterpret_cast<uint16_t*>(page.keys);
    auto* values = reinterpret_cast<uint16_t*>(page.values);
    for (size_t d = 0; d < head_dim; ++d) {
      keys[d * kPageTokens + token] = FloatToHalf(key[d]);
      values[token * head_dim + d] = FloatToHalf(value[d]);
    }
    return;
  }
  auto* keys = reinterpret_cast<float*>(page.keys);
  auto* values = reinterpret_cast<float*>(page.values);
  for (size_t d = 0; d < head_dim; ++d) {
    keys[d * kPageTokens + token] = key[d];
    values[token * head_dim + d] = value[d];
  }
}

void AttendQueries(Isa isa, std::span<const AttentionQuery> queries, const HeadPages& pages,
                   int window, float scale) {
  const AttentionKernels& kernels = Kernels(isa);
  while (!queries.empty()) {
    const size_t count = std::min<size_t>(queries.size(), kMaxTileQueries);
    AttendTile(kernels, queries.first(count), pages, window, scale);
    queries = queries.subspan(count);
  }
}

void AttendHead(Isa isa, std::span<const float> query, const HeadPages& pages, int64_t position,
                int window, float scale, std::span<float> out) {
  const AttentionQuery one = {query.data(), out.data(), position};
  AttendQueries(isa, {&one, 1}, pages, window, scale);
}

}  // namespace tandem::core
