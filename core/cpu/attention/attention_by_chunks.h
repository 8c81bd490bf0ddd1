#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/base/thread_pool.h"
#include "core/cpu/attention/attention.h"

namespace tandem::core {

/// Attention of a few queries over many positions, as in decoding: the chunks of each KV head are
/// what threads share. The same bits as AttendQueries. Buffers are kept from call to call. Thread
/// safety: one thread calls.
class AttentionByChunks {
 public:
  /// Drops the queries of the call before.
  void Clear();

  /// Queries of one sequence that share a KV head; they are copied, what they point to must live
  /// until Run has returned.
  void Add(std::span<const AttentionQuery> queries, const HeadPages& pages, int window,
           float scale);

  /// Attends all that was added.
  void Run(Isa isa, ThreadPool& pool);

 private:
  struct Group {
    size_t first_query = 0;
    size_t queries = 0;
    HeadPages pages;
    int window = 0;
    float scale = 1.0F;
  };
  struct Part {
    size_t tile = 0;
    int64_t chunk = 0;
  };

  /// Cuts the groups into tiles of at most `queries` and these into chunks.
  void Cut(size_t queries);

  std::vector<AttentionQuery> queries_;
  std::vector<Group> groups_;
  std::vector<QueryTile> tiles_;
  std::vector<size_t> first_result_;  // [tiles] into results_
  std::vector<Part> parts_;
  std::vector<float> results_;
};

}  // namespace tandem::core
