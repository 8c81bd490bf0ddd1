#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/base/isa.h"
#include "core/base/thread_pool.h"
#include "core/cpu/attention/segment_keys.h"
#include "core/model/config.h"
#include "core/model/model.h"
#include "core/model/operations.h"
#include "core/model/shard.h"
#include "core/model/tensor.h"

namespace tandem::core {

/// What Infini-attention does in a step besides attending within segments: what queries remember,
/// and what is remembered of the segments that the step ends. Thread safety: one thread calls.
class InfiniAttention {
 public:
  /// `config` must outlive it.
  InfiniAttention(const ModelConfig& config, const Shard& shard, DeviceMemory& memory, Isa isa);

  const SegmentKeys& keys() const { return keys_; }

  void BeginStep(const Batch& batch);
  /// Of a layer, whose keys and values of the step are in the cache: reads the memory for all
  /// queries, and writes the states of segments that end. query: [tokens, heads * head_dim] before
  /// rotation
  void Remember(const AttentionLayer& layer, const Tensor& query, const KvView& cache,
                ThreadPool& pool);
  /// Mixes what Remember read into what the queries attended to: [tokens, heads * head_dim].
  void Mix(const AttentionLayer& layer, Tensor& attended, ThreadPool& pool) const;

 private:
  /// Tokens of one sequence in one segment.
  struct Piece {
    const SequenceSlice* sequence = nullptr;
    int64_t first_token = 0;  // of the step
    int64_t tokens = 0;
    int64_t start = 0;  // position of the first
    int64_t segment = 0;

    int64_t end() const { return start + tokens; }
  };

  void ReadMemories(const AttentionLayer& layer, std::span<const Piece> wave, const Tensor& query,
                    const KvView& cache, ThreadPool& pool);
  void WriteMemories(const AttentionLayer& layer, std::span<const Piece> wave, const KvView& cache,
                     ThreadPool& pool);
  /// The state at the end of so many segments of a sequence.
  KvState StateOf(const Piece& piece, int64_t segments, int layer, int kv_head,
                  const KvView& cache) const;

  const ModelConfig& config_;
  const Shard shard_;
  const Isa isa_;
  const int64_t segment_;
  SegmentKeys keys_;
  std::vector<std::vector<Piece>> waves_;    // the n-th pieces of all sequences
  std::vector<int64_t> positions_;           // [tokens of the step]
  Tensor remembered_;                        // [tokens, heads * head_dim]
  std::vector<std::vector<float>> scratch_;  // [threads]
};

}  // namespace tandem::core
