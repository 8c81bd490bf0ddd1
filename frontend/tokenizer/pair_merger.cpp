#include "frontend/tokenizer/pair_merger.h"

#include <algorithm>

namespace tandem::frontend {

void PairMerger::Add(int32_t token, uint32_t begin, uint32_t length) {
  MergeSymbol symbol{token, begin, length};
  if (!symbols_.empty()) {
    const auto index = static_cast<int32_t>(symbols_.size());
    symbol.previous = index - 1;
    symbols_.back().next = index;
  }
  symbols_.push_back(symbol);
}

void PairMerger::Consider(int32_t left, int32_t right, TryMerge try_merge) {
  if (left == MergeSymbol::kNone || right == MergeSymbol::kNone) return;
  const MergeSymbol& a = symbols_[static_cast<size_t>(left)];
  const MergeSymbol& b = symbols_[static_cast<size_t>(right)];
  const std::optional<Merge> merge = try_merge(a, b);
  if (!merge.has_value()) return;
  queue_.push_back({merge->cost, left, right, a.length + b.length, merge->token});
  std::push_heap(queue_.begin(), queue_.end());
}

void PairMerger::Run(TryMerge try_merge) {
  queue_.clear();
  for (size_t i = 1; i < symbols_.size(); ++i) {
    Consider(static_cast<int32_t>(i) - 1, static_cast<int32_t>(i), try_merge);
  }
  while (!queue_.empty()) {
    std::pop_heap(queue_.begin(), queue_.end());
    const Candidate candidate = queue_.back();
    queue_.pop_back();
    MergeSymbol& left = symbols_[static_cast<size_t>(candidate.left)];
    MergeSymbol& right = symbols_[static_cast<size_t>(candidate.right)];
    // Symbols only grow or end, so the same length means the same two symbols.
    if (left.length == 0 || right.length == 0 || left.length + right.length != candidate.length) {
      continue;
    }
    left.token = candidate.token;
    left.length = candidate.length;
    left.next = right.next;
    right.length = 0;
    if (left.next != MergeSymbol::kNone) {
      symbols_[static_cast<size_t>(left.next)].previous = candidate.left;
    }
    Consider(left.previous, candidate.left, try_merge);
    Consider(candidate.left, left.next, try_merge);
  }
}

void PairMerger::ForEach(absl::FunctionRef<void(const MergeSymbol&)> body) const {
  // The first symbol is never merged into another one.
  if (symbols_.empty()) return;
  for (int32_t i = 0; i != MergeSymbol::kNone; i = symbols_[static_cast<size_t>(i)].next) {
    body(symbols_[static_cast<size_t>(i)]);
  }
}

}  // namespace tandem::frontend
