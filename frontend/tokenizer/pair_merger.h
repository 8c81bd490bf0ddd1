#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "absl/functional/function_ref.h"

namespace tandem::frontend {

/// A token in the making: a stretch of the text and its neighbours in a linked list.
struct MergeSymbol {
  static constexpr int32_t kNone = std::numeric_limits<int32_t>::min();

  int32_t token = kNone;  // kNone: no token is spelled so
  uint32_t begin = 0;     // in the text
  uint32_t length = 0;    // 0 = merged into its left neighbour
  int32_t previous = kNone;
  int32_t next = kNone;
};

/// Byte-pair encoding: merges neighbours, the cheapest pair first and the leftmost of equal ones,
/// until none can be. O(n log n) in the number of symbols.
///
/// Keeps its memory from one text to the next. Thread safety: none.
/// Source: Sennrich et al. 2016; the queue over a linked list as in SentencePiece.
class PairMerger {
 public:
  struct Merge {
    double cost = 0;
    int32_t token = 0;  // of both together
  };
  using TryMerge =
      absl::FunctionRef<std::optional<Merge>(const MergeSymbol& left, const MergeSymbol& right)>;

  /// The symbols to start from; add them in order, then Run.
  void Clear() { symbols_.clear(); }
  void Add(int32_t token, uint32_t begin, uint32_t length);
  bool empty() const { return symbols_.empty(); }

  void Run(TryMerge try_merge);
  /// Calls body(symbol) for what is left, in order.
  void ForEach(absl::FunctionRef<void(const MergeSymbol&)> body) const;

 private:
  struct Candidate {
    double cost;
    int32_t left;
    int32_t right;
    uint32_t length;  // of both when this was queued; another length now means it is stale
    int32_t token;
    bool operator<(const Candidate& other) const {  // for a queue with the least on top
      return cost != other.cost ? cost > other.cost : left > other.left;
    }
  };

  void Consider(int32_t left, int32_t right, TryMerge try_merge);

  std::vector<MergeSymbol> symbols_;
  std::vector<Candidate> queue_;  // a heap
};

}  // namespace tandem::frontend
