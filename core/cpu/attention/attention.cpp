#include "core/cpu/attention/attention.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <optional>
#include <vector>

#include "core/base/float_convert.h"
#include "core/cpu/attention/attention_kernels.h"
#include "core/cpu/elementwise/elementwise.h"

namespace tandem::core {
namespace {

constexpr AttentionKernels kAttentionScalar =
    AttentionOf<ScalarLanes<kLanes>, kAvx2Accumulators>::kTable;
constexpr AttentionKernels kAttentionAvx2 = AttentionOf<Avx2Lanes, kAvx2Accumulators>::kTable;

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

ChunkKernel Float8Chunk(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return kFloat8ChunkScalar;
    case Isa::kAvx2:
      return kFloat8ChunkAvx2;
    case Isa::kAvx512:
      return kFloat8ChunkAvx512;
  }
  return kFloat8ChunkScalar;
}

ChunkKernel ChunkOf(Isa isa, KvDtype dtype) {
  switch (dtype) {
    case KvDtype::kF16:
      return Kernels(isa).chunk_f16;
    case KvDtype::kF32:
      return Kernels(isa).chunk_f32;
    case KvDtype::kF8:
      return Float8Chunk(isa);
  }
  return nullptr;
}

ChunkKernel MaskedChunkOf(Isa isa, KvDtype dtype) {
  const MaskedKernels& kernels = isa == Isa::kAvx512 ? kMaskedAvx512
                                 : isa == Isa::kAvx2 ? kMaskedAvx2
                                                     : kMaskedScalar;
  switch (dtype) {
    case KvDtype::kF16:
      return kernels.chunk_f16;
    case KvDtype::kF32:
      return kernels.chunk_f32;
    case KvDtype::kF8:
      return kernels.chunk_f8;
  }
  return nullptr;
}

/// The first position that a query sees.
int64_t FirstVisible(int64_t position, int window, const HeadPages& pages) {
  if (pages.segment_keys != nullptr) return pages.segment_keys->Start(position);
  return window == 0 ? 0 : std::max<int64_t>(0, position - window + 1);
}

/// Where the result of one query and chunk stands among those of a tile: [head_dim] of output, then
/// the maximum, then the sum.
template <typename Float>
Float* ResultOf(Float* results, int64_t chunk, size_t query, int head_dim) {
  return results + (chunk * kMostTileQueries + static_cast<int64_t>(query)) * (head_dim + 2);
}

/// Writes the codes of a vector, `stride` bytes apart. Returns their scale.
float StoreFloat8(std::span<const float> vector, std::byte* codes, size_t stride) {
  uint32_t magnitude = 0;
  for (const float x : vector) magnitude = std::max(magnitude, MagnitudeBits(x));
  const Float8Scale scale = ScaleOfFloat8(magnitude);
  // A part at a time is made, which vectors do, and then spread.
  constexpr size_t kTogether = 64;
  Float8 made[kTogether];
  for (size_t d = 0; d < vector.size(); d += kTogether) {
    const size_t count = std::min(kTogether, vector.size() - d);
    for (size_t i = 0; i < count; ++i) made[i] = ToFloat8(vector[d + i] * scale.inverse);
    for (size_t i = 0; i < count; ++i) {
      codes[(d + i) * stride] = static_cast<std::byte>(made[i]);
    }
  }
  return scale.scale;
}

}  // namespace

void StoreKeyValue(const KvGeometry& geometry, const KvPage& page, int slot,
                   std::span<const float> key, std::span<const float> value) {
  const auto head_dim = static_cast<size_t>(geometry.head_dim);
  const auto token = static_cast<size_t>(slot);
  if (geometry.dtype == KvDtype::kF8) {
    page.scales[token] = StoreFloat8(key.first(head_dim), page.keys + token, kPageTokens);
    page.scales[kPageTokens + token] =
        StoreFloat8(value.first(head_dim), page.values + token * head_dim, 1);
    return;
  }
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

QueryTile QueryTile::Of(std::span<const AttentionQuery> some, const HeadPages& their_pages,
                        int their_window, float score_scale) {
  QueryTile tile{.queries = some,
                 .pages = their_pages,
                 .window = their_window,
                 .scale = score_scale,
                 .first_position = some[0].position,
                 .last_position = 0,
                 .sights = {},
                 .sparse_chunks = {}};
  for (const AttentionQuery& query : some) {
    tile.first_position =
        std::min(tile.first_position, FirstVisible(query.position, their_window, their_pages));
    tile.last_position = std::max(tile.last_position, query.position);
  }
  if (their_pages.sparse != nullptr) {
    std::vector<int32_t>& chunks = tile.sparse_chunks;
    for (const AttentionQuery& query : some) {
      tile.sights.push_back(
          their_pages.sparse->SightOf(their_pages.layer, their_window, query.position));
      tile.sights.back().AppendChunks(chunks);
    }
    std::sort(chunks.begin(), chunks.end());
    chunks.erase(std::unique(chunks.begin(), chunks.end()), chunks.end());
  }
  return tile;
}

int64_t QueryTile::ResultFloats() const {
  return chunks() * kMostTileQueries * (pages.cache->geometry().head_dim + 2);
}

const void* QueryTile::FirstKeys(int64_t chunk) const {
  int64_t page = ChunkAt(chunk) * kPagesPerChunk;
  if (pages.sparse == nullptr) {
    page = std::max(page, first_position / kPageTokens);
  } else {
    const int64_t last = page + kPagesPerChunk - 1;
    while (page < last && sights[0].OfBlock(page) == 0) ++page;
    if (page > last_position / kPageTokens) return nullptr;
  }
  const BlockId block = pages.blocks[static_cast<size_t>(page)];
  return block == kNoBlock ? nullptr : pages.cache->Page(pages.layer, pages.kv_head, block).keys;
}

namespace {

/// Which tokens of a chunk's pages each query sees.
struct SeenTokens {
  uint64_t of[kMostTileQueries][kPagesPerChunk];

  SeenTokens(const QueryTile& work, int64_t first_page) {
    for (size_t q = 0; q < work.queries.size(); ++q) {
      for (int i = 0; i < kPagesPerChunk; ++i) of[q][i] = work.sights[q].OfBlock(first_page + i);
    }
  }
  /// Whether query q sees one run of tokens at most: then it is [first, last).
  bool IsOneRun(size_t q, int& first, int& last) const {
    first = last = 0;
    bool one = true;
    for (int i = 0; i < kPagesPerChunk; ++i) {
      const uint64_t bits = of[q][i];
      if (bits == 0) continue;
      const int begin = i * kPageTokens + std::countr_zero(bits);
      const int count = std::popcount(bits);
      // Bits that are a run leave none behind when that is shifted out.
      one = one && (count == kPageTokens || bits >> std::countr_zero(bits) >> count == 0);
      one = one && (first == last || last == begin);
      if (first == last) first = begin;
      last = begin + count;
    }
    return one;
  }
};

/// The pages that some query of the tile may see. seen: null: all between its first and its last.
void SetPages(const QueryTile& work, int64_t first_page, const SeenTokens* seen,
              AttentionTile& tile) {
  for (int i = 0; i < kPagesPerChunk; ++i) {
    const int64_t page_start = (first_page + i) * kPageTokens;
    if (page_start > work.last_position || page_start + kPageTokens <= work.first_position) {
      continue;
    }
    if (seen != nullptr) {
      uint64_t any = 0;
      for (size_t q = 0; q < work.queries.size(); ++q) any |= seen->of[q][i];
      if (any == 0) continue;
    }
    const BlockId block = work.pages.blocks[static_cast<size_t>(first_page + i)];
    if (block == kNoBlock) continue;
    const KvPage page = work.pages.cache->Page(work.pages.layer, work.pages.kv_head, block);
    tile.keys[i] = page.keys;
    tile.values[i] = page.values;
    tile.scales[i] = page.scales;
  }
}

/// Puts rotated keys, and values, as floats in the place of those of the cache. They are good until
/// the thread's next call.
void RotatePages(Isa isa, const QueryTile& work, int64_t first_page, AttentionTile& tile) {
  static thread_local std::vector<float> floats;
  const KvGeometry& geometry = work.pages.cache->geometry();
  const auto page_floats = static_cast<size_t>(geometry.head_dim) * kPageTokens;
  floats.resize(2 * kPagesPerChunk * page_floats);
  for (int i = 0; i < kPagesPerChunk; ++i) {
    if (tile.keys[i] == nullptr) continue;
    const BlockId block = work.pages.blocks[static_cast<size_t>(first_page + i)];
    float* const keys = floats.data() + 2 * static_cast<size_t>(i) * page_floats;
    float* const values = keys + page_floats;
    work.pages.segment_keys->Read(
        isa, geometry, work.pages.cache->Page(work.pages.layer, work.pages.kv_head, block),
        first_page + i, keys, values);
    tile.keys[i] = keys;
    tile.values[i] = values;
    tile.scales[i] = nullptr;
  }
  tile.then = nullptr;  // it points to elements of the cache
}

/// Calls body(results of a chunk) for the chunks of the tile that a query sees, ascending.
template <typename Body>
void ForEachSeenChunk(const QueryTile& work, size_t q, const float* results, Body body) {
  const AttentionQuery& query = work.queries[q];
  const int head_dim = work.pages.cache->geometry().head_dim;
  if (work.pages.sparse == nullptr) {
    const int64_t first =
        FirstVisible(query.position, work.window, work.pages) / kChunkTokens - work.first_chunk();
    const int64_t last = query.position / kChunkTokens - work.first_chunk();
    for (int64_t c = first; c <= last; ++c) body(ResultOf(results, c, q, head_dim));
    return;
  }
  for (int64_t c = 0; c < work.chunks(); ++c) {
    if (work.sights[q].SeesChunk(work.ChunkAt(c))) body(ResultOf(results, c, q, head_dim));
  }
}

}  // namespace

void AttendChunk(Isa isa, const QueryTile& work, int64_t index, const void* then, float* results) {
  const KvGeometry& geometry = work.pages.cache->geometry();
  AttentionTile tile;
  tile.queries = static_cast<int>(work.queries.size());
  tile.head_dim = geometry.head_dim;
  tile.scale = work.scale;
  tile.then = then;
  const int64_t start = work.ChunkAt(index) * kChunkTokens;
  std::optional<SeenTokens> seen;
  if (work.pages.sparse != nullptr) seen.emplace(work, start / kPageTokens);
  SetPages(work, start / kPageTokens, seen ? &*seen : nullptr, tile);
  ChunkKernel kernel = ChunkOf(isa, geometry.dtype);
  if (work.pages.segment_keys != nullptr) {
    RotatePages(isa, work, start / kPageTokens, tile);
    kernel = ChunkOf(isa, KvDtype::kF32);
  }
  for (size_t q = 0; q < work.queries.size(); ++q) {
    const AttentionQuery& query = work.queries[q];
    tile.query[q] = query.query;
    tile.slope[q] = query.slope;
    tile.distance[q] = static_cast<float>(start - query.position);
    tile.out[q] = ResultOf(results, index, q, geometry.head_dim);
    if (seen) {
      if (seen->IsOneRun(q, tile.first[q], tile.last[q])) continue;
      tile.seen = seen->of;
      kernel = MaskedChunkOf(isa, geometry.dtype);
      continue;
    }
    const int64_t from = FirstVisible(query.position, work.window, work.pages) - start;
    const int64_t to = query.position + 1 - start;
    tile.first[q] = static_cast<int>(std::clamp<int64_t>(from, 0, kChunkTokens));
    tile.last[q] = static_cast<int>(std::clamp<int64_t>(to, 0, kChunkTokens));
  }
  kernel(tile);
  for (size_t q = 0; q < work.queries.size(); ++q) {
    tile.out[q][geometry.head_dim] = tile.maximum[q];
    tile.out[q][geometry.head_dim + 1] = tile.sum[q];
  }
}

void CombineChunks(Isa isa, const QueryTile& work, const float* results) {
  const AttentionKernels& kernels = Kernels(isa);
  const int head_dim = work.pages.cache->geometry().head_dim;
  for (size_t q = 0; q < work.queries.size(); ++q) {
    const AttentionQuery& query = work.queries[q];
    float maximum = -std::numeric_limits<float>::infinity();
    ForEachSeenChunk(work, q, results,
                     [&](const float* result) { maximum = std::max(maximum, result[head_dim]); });
    float sum = 0.0F;
    std::fill_n(query.out, head_dim, 0.0F);
    ForEachSeenChunk(work, q, results, [&](const float* result) {
      const float factor = Exp(result[head_dim] - maximum);
      sum = __builtin_fmaf(factor, result[head_dim + 1], sum);
      kernels.accumulate(result, factor, head_dim, query.out);
    });
    kernels.divide(query.out, sum, head_dim);
  }
}

void AttendQueries(Isa isa, std::span<const AttentionQuery> queries, const HeadPages& pages,
                   int window, float scale) {
  std::vector<float> results;
  while (!queries.empty()) {
    // Tiles of about one size: the fewer queries share what is read, the longer each takes.
    const size_t tiles = (queries.size() + kMostTileQueries - 1) / kMostTileQueries;
    const size_t count = (queries.size() + tiles - 1) / tiles;
    const QueryTile tile = QueryTile::Of(queries.first(count), pages, window, scale);
    results.resize(std::max(results.size(), static_cast<size_t>(tile.ResultFloats())));
    for (int64_t chunk = 0; chunk < tile.chunks(); ++chunk) {
      const void* then = chunk + 1 < tile.chunks() ? tile.FirstKeys(chunk + 1) : nullptr;
      AttendChunk(isa, tile, chunk, then, results.data());
    }
    CombineChunks(isa, tile, results.data());
    queries = queries.subspan(count);
  }
}

}  // namespace tandem::core
