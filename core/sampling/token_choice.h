#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "core/model/sampling.h"
#include "core/model/shard.h"
#include "core/sampling/logit_math.h"

/// The steps of SampleToken (core/sampling/sampler.h), for those who do not hold all candidates at
/// once.
namespace tandem::core {

/// The order of tokens: by (logit descending, token ascending).
inline bool Better(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

inline bool EarlierToken(const Candidate& a, const Candidate& b) { return a.token < b.token; }

/// As std::sort by Better and by EarlierToken would, but many in a time that grows with their
/// number alone: flat distributions have the whole vocabulary sorted.
void SortBestFirst(std::span<Candidate> candidates);
void SortByToken(std::span<Candidate> candidates);

/// Calls visit(row) once for each row of a shard, counted from its first, whose token the history
/// has.
template <typename Visit>
void ForEachSeenRow(std::span<const int32_t> history, Range vocab_rows, Visit visit) {
  std::vector<bool> seen(static_cast<size_t>(vocab_rows.count));
  for (const int32_t token : history) {
    const int64_t row = token - vocab_rows.begin;
    if (row < 0 || row >= vocab_rows.count || seen[static_cast<size_t>(row)]) continue;
    seen[static_cast<size_t>(row)] = true;
    visit(row);
  }
}

/// Calls visit(row, penalty) once for each row of a shard whose token the answer has, with what
/// presence_penalty and frequency_penalty subtract from its logit. The answer is the last
/// `token_index` tokens of the history.
template <typename Visit>
void ForEachAnsweredRow(const SamplingParams& params, uint64_t token_index,
                        std::span<const int32_t> history, Range vocab_rows, Visit visit) {
  if (params.presence_penalty == 0.0F && params.frequency_penalty == 0.0F) return;
  std::vector<int64_t> rows;
  for (const int32_t token : history.last(std::min<size_t>(token_index, history.size()))) {
    const int64_t row = token - vocab_rows.begin;
    if (row >= 0 && row < vocab_rows.count) rows.push_back(row);
  }
  std::sort(rows.begin(), rows.end());
  for (auto begin = rows.begin(); begin != rows.end();) {
    const auto end = std::upper_bound(begin, rows.end(), *begin);
    const auto count = static_cast<float>(end - begin);
    visit(*begin, params.presence_penalty + count * params.frequency_penalty);
    begin = end;
  }
}

/// Candidates of one block of kSumRows vocabulary rows, and the sum of their weights.
struct BlockSum {
  std::span<const Candidate> candidates;
  double sum = 0.0;
};

/// candidates: ascending by token.
std::vector<BlockSum> SumBlocks(std::span<const Candidate> candidates, const Softmax& softmax);

/// The sums alone.
std::vector<double> SumsOf(std::span<const BlockSum> blocks);

/// The same sum for a block's logits: those of all its rows, in order.
double SumOfBlock(std::span<const float> logits, const Softmax& softmax);

/// The sum over all blocks, in order.
double TotalOf(std::span<const double> sums);

/// Keeps the shortest run of best candidates whose weights reach `wanted`, sorted from the best
/// down. Says whether they do; if not, all are kept. Sorts no more than needed.
bool KeepBest(std::vector<Candidate>& candidates, double wanted, const Softmax& softmax);

/// A number in [0, 1), a multiple of 2^-53.
double Uniform(const SamplingParams& params, uint64_t token_index);

/// A place in the sum over a vocabulary.
struct PlaceInSums {
  size_t block = 0;
  double within = 0.0;  // of the block's sum
};

/// Where `uniform` of the sum over all blocks falls. sums: by block, one of them not 0.
PlaceInSums FindBlock(std::span<const double> sums, double uniform);

/// The token of a block into whose range `within` falls. candidates: of the block, ascending by
/// token, one of them with a weight.
int32_t FindToken(std::span<const Candidate> candidates, const Softmax& softmax, double within);

/// Draws a token. candidates: all that are left, ascending by token, one of them with a weight.
int32_t DrawToken(std::span<const Candidate> candidates, const Softmax& softmax, double uniform);

}  // namespace tandem::core
