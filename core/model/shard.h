#pragma once

#include <cstdint>

namespace tandem::core {

struct ModelConfig;

/// A half-open range [begin, begin + count).
struct Range {
  int64_t begin = 0;
  int64_t count = 0;
  int64_t end() const { return begin + count; }
  bool operator==(const Range&) const = default;
};

/// What one rank holds of every layer. Made by parallel/sharding/shard_plan; the loader and the
/// forward pass only read it.
struct Shard {
  Range query_heads;  // contiguous; cut at multiples of ModelConfig::heads_per_partial_sum
  Range kv_heads;     // those that query_heads need; a KV head may be held by several ranks
  Range ffn_columns;  // cut at multiples of ModelConfig::ffn_partial_columns; may be empty
  Range vocab_rows;   // may be empty
  bool operator==(const Shard&) const = default;
};

/// The shard of a single rank: everything.
Shard WholeModel(const ModelConfig& config);

}  // namespace tandem::core
