#include "core/cpu/attention/infini_attention.h"

#include <algorithm>

#include "core/cpu/attention/infini_memory.h"

namespace tandem::core {

InfiniAttention::InfiniAttention(const ModelConfig& config, const Shard& shard,
                                 DeviceMemory& memory, Isa isa)
    : config_(config),
      shard_(shard),
      isa_(isa),
      segment_(config.attention.segment),
      keys_(config.rope, config.attention.segment),
      remembered_(memory, shard.query_heads.count * config.head_dim) {}

void InfiniAttention::BeginStep(const Batch& batch) {
  waves_.clear();
  positions_.resize(batch.tokens.size());
  for (const SequenceSlice& sequence : batch.sequences) {
    const int64_t end = int64_t{sequence.start_position} + sequence.tokens;
    size_t wave = 0;
    for (int64_t start = sequence.start_position; start < end; ++wave) {
      const int64_t segment = start / segment_;
      const int64_t stop = std::min(end, (segment + 1) * segment_);
      if (wave == waves_.size()) waves_.emplace_back();
      const int64_t first = sequence.first_token + start - sequence.start_position;
      waves_[wave].push_back({&sequence, first, stop - start, start, segment});
      for (int64_t i = 0; i < stop - start; ++i) {
        positions_[static_cast<size_t>(first + i)] = start + i;
      }
      keys_.Prepare(stop - segment * segment_);
      start = stop;
    }
  }
}

KvState InfiniAttention::StateOf(const Piece& piece, int64_t segments, int layer, int kv_head,
                                 const KvView& cache) const {
  const auto group = static_cast<size_t>(cache.states(layer).group);
  const auto block = static_cast<size_t>(segments * segment_ / kPageTokens - 1);
  return cache.State(layer, kv_head, piece.sequence->block_tables[group][block]);
}

void InfiniAttention::Remember(const AttentionLayer& layer, const Tensor& query,
                               const KvView& cache, ThreadPool& pool) {
  remembered_.SetRows(query.rows());
  for (const std::vector<Piece>& wave : waves_) {
    ReadMemories(layer, wave, query, cache, pool);
    WriteMemories(layer, wave, cache, pool);
  }
}

void InfiniAttention::ReadMemories(const AttentionLayer& layer, std::span<const Piece> wave,
                                   const Tensor& query, const KvView& cache, ThreadPool& pool) {
  struct Task {
    const Piece* piece;
    int64_t token;
  };
  std::vector<Task> tasks;
  for (const Piece& piece : wave) {
    if (piece.segment == 0) continue;
    for (int64_t i = 0; i < piece.tokens; ++i) tasks.push_back({&piece, piece.first_token + i});
  }
  const auto n = static_cast<size_t>(config_.head_dim);
  pool.ParallelFor(static_cast<int64_t>(tasks.size()), [&](int64_t i, int) {
    const auto [piece, token] = tasks[static_cast<size_t>(i)];
    for (int64_t head = 0; head < shard_.query_heads.count; ++head) {
      const int64_t kv_head =
          (shard_.query_heads.begin + head) / config_.group_size() - shard_.kv_heads.begin;
      const size_t at = static_cast<size_t>(head) * n;
      ReadMemory(isa_,
                 StateOf(*piece, piece->segment, layer.layer, static_cast<int>(kv_head), cache),
                 query.row(token).subspan(at, n), remembered_.row(token).subspan(at, n));
    }
  });
}

void InfiniAttention::WriteMemories(const AttentionLayer& layer, std::span<const Piece> wave,
                                    const KvView& cache, ThreadPool& pool) {
  std::vector<const Piece*> ended;
  for (const Piece& piece : wave) {
    if (piece.end() % segment_ == 0) ended.push_back(&piece);
  }
  const int64_t kv_heads = shard_.kv_heads.count;
  const auto keys = static_cast<size_t>(cache.group_of(layer.layer));
  scratch_.resize(static_cast<size_t>(pool.threads()));
  pool.ParallelFor(static_cast<int64_t>(ended.size()) * kv_heads, [&](int64_t task, int thread) {
    const Piece& piece = *ended[static_cast<size_t>(task / kv_heads)];
    const auto kv_head = static_cast<int>(task % kv_heads);
    std::vector<KvPage> pages;
    for (int64_t b = piece.segment * segment_ / kPageTokens; b < piece.end() / kPageTokens; ++b) {
      pages.push_back(cache.Page(layer.layer, kv_head,
                                 piece.sequence->block_tables[keys][static_cast<size_t>(b)]));
    }
    KvState before{};
    if (piece.segment > 0) before = StateOf(piece, piece.segment, layer.layer, kv_head, cache);
    UpdateMemory(isa_, config_.attention.update, cache.geometry(),
                 piece.segment > 0 ? &before : nullptr, pages,
                 StateOf(piece, piece.segment + 1, layer.layer, kv_head, cache),
                 scratch_[static_cast<size_t>(thread)]);
  });
}

void InfiniAttention::Mix(const AttentionLayer& layer, Tensor& attended, ThreadPool& pool) const {
  const auto n = static_cast<size_t>(config_.head_dim);
  pool.ParallelFor(attended.rows(), [&](int64_t t, int) {
    if (positions_[static_cast<size_t>(t)] < segment_) return;
    for (size_t head = 0; head < layer.memory_gates.size(); ++head) {
      MixMemory(isa_, layer.memory_gates[head], remembered_.row(t).subspan(head * n, n),
                attended.row(t).subspan(head * n, n));
    }
  });
}

}  // namespace tandem::core
