#include "core/cpu/attention/attention_by_chunks.h"

#include <algorithm>

#include "core/cpu/attention/attention_kernels.h"

namespace tandem::core {

void AttentionByChunks::Clear() {
  queries_.clear();
  groups_.clear();
}

void AttentionByChunks::Add(std::span<const AttentionQuery> queries, const HeadPages& pages,
                            int window, float scale) {
  groups_.push_back({queries_.size(), queries.size(), pages, window, scale});
  queries_.insert(queries_.end(), queries.begin(), queries.end());
}

void AttentionByChunks::Cut(size_t queries) {
  tiles_.clear();
  first_result_.clear();
  parts_.clear();
  size_t floats = 0;
  for (const Group& group : groups_) {
    for (size_t q = 0; q < group.queries; q += queries) {
      const std::span<const AttentionQuery> together =
          std::span(queries_).subspan(group.first_query + q, std::min(queries, group.queries - q));
      const QueryTile tile = QueryTile::Of(together, group.pages, group.window, group.scale);
      for (int64_t chunk = 0; chunk < tile.chunks(); ++chunk) {
        parts_.push_back({tiles_.size(), chunk});
      }
      tiles_.push_back(tile);
      first_result_.push_back(floats);
      floats += static_cast<size_t>(tile.ResultFloats());
    }
  }
  if (results_.size() < floats) results_.resize(floats);
}

void AttentionByChunks::Run(Isa isa, ThreadPool& pool) {
  // Queries together read keys and values once; apart they give every thread something to do.
  const size_t wanted = 2 * static_cast<size_t>(pool.threads());
  for (size_t queries = kMostTileQueries;; queries = (queries + 1) / 2) {
    Cut(queries);
    if (parts_.size() >= wanted || queries == 1) break;
  }
  // A thread takes neighbours, so that what it asks for ahead is what it reads next.
  constexpr size_t kMostNeighbours = 8;
  constexpr size_t kTasksPerThread = 8;
  const auto threads = static_cast<size_t>(pool.threads());
  const size_t neighbours =
      std::clamp<size_t>(parts_.size() / (kTasksPerThread * threads), 1, kMostNeighbours);
  const size_t tasks = (parts_.size() + neighbours - 1) / neighbours;
  pool.ParallelFor(static_cast<int64_t>(tasks), [&](int64_t task, int) {
    const size_t begin = static_cast<size_t>(task) * neighbours;
    const size_t end = std::min(begin + neighbours, parts_.size());
    for (size_t at = begin; at < end; ++at) {
      const Part& part = parts_[at];
      const void* then =
          at + 1 < end ? tiles_[parts_[at + 1].tile].FirstKeys(parts_[at + 1].chunk) : nullptr;
      AttendChunk(isa, tiles_[part.tile], part.chunk, then,
                  results_.data() + first_result_[part.tile]);
    }
  });
  // Combining a few chunks takes less than handing it out.
  constexpr size_t kPartsWorthIt = 64;
  const auto combine = [&](int64_t i, int) {
    const auto tile = static_cast<size_t>(i);
    CombineChunks(isa, tiles_[tile], results_.data() + first_result_[tile]);
  };
  const auto tiles = static_cast<int64_t>(tiles_.size());
  if (parts_.size() < kPartsWorthIt) {
    for (int64_t i = 0; i < tiles; ++i) combine(i, 0);
  } else {
    pool.ParallelFor(tiles, combine);
  }
}

}  // namespace tandem::core
