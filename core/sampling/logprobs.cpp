#include "core/sampling/logprobs.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "core/base/double_math.h"
#include "core/sampling/gather_sums.h"
#include "core/sampling/lane_sums.h"
#include "core/sampling/token_choice.h"

namespace tandem::core {
namespace {

/// What weights are exp(logit - best) of.
Softmax WithBest(float best) { return {.best = best, .temperature = 1.0F, .smallest = 0.0F}; }

/// What is known of a row.
struct RowScore {
  size_t row = 0;               // of the rows that are scored
  std::vector<Candidate> best;  // of all ranks, best first: at least one
  float logit = 0.0F;           // of the row's token
};

size_t CandidatesEach(const ScoreRow& row) {
  return static_cast<size_t>(
      std::min(int64_t{std::max(row.top, 1)}, std::max<int64_t>(row.largest_shard, 1)));
}

/// The sum over the vocabulary. Adds the edges' blocks to of_blocks.sums.
double SumOverAll(RowSums& of_blocks, const Softmax& softmax) {
  std::span<const Candidate> edges = of_blocks.edges;
  std::vector<float> block;
  while (!edges.empty()) {
    const int32_t number = edges.front().token / kSumRows;
    block.clear();
    while (block.size() < edges.size() && edges[block.size()].token / kSumRows == number) {
      block.push_back(edges[block.size()].logit);
    }
    edges = edges.subspan(block.size());
    const auto index = static_cast<size_t>(number);
    if (index >= of_blocks.sums.size()) of_blocks.sums.resize(index + 1);
    of_blocks.sums[index] = SumInLanes(block, softmax);
  }
  return TotalOf(of_blocks.sums);
}

/// One gather of candidates. Returns the rows whose logits are all finite.
absl::StatusOr<std::vector<RowScore>> GatherBest(std::span<const ScoreRow> rows,
                                                 ShardLogits& logits, Collective& collective,
                                                 const StepPhase& phase) {
  std::vector<size_t> first = {0};  // of each row: its candidates, then the asked-for token
  for (const ScoreRow& row : rows) first.push_back(first.back() + CandidatesEach(row) + 1);
  std::vector<Candidate> mine(first.back());
  std::vector<ShardLogits::BestOfRow> best;
  std::vector<ShardLogits::PartOfRow> parts;
  const Range vocab_rows = logits.vocab_rows();
  for (size_t i = 0; i < rows.size(); ++i) {
    const ScoreRow& row = rows[i];
    best.push_back({row.row, std::span(mine).subspan(first[i], CandidatesEach(row))});
    if (row.token < vocab_rows.begin || row.token >= vocab_rows.end()) continue;
    Candidate& asked = mine[first[i + 1] - 1];
    asked.token = row.token;
    parts.push_back({row.row, row.token, {&asked.logit, 1}});
  }
  logits.SelectCandidates(best);
  logits.Read(parts);
  std::vector<Candidate> all(mine.size() * static_cast<size_t>(collective.size()));
  TANDEM_RETURN_IF_ERROR(collective.AllGather(std::as_bytes(std::span(mine)),
                                              std::as_writable_bytes(std::span(all)), phase));
  std::vector<RowScore> states;
  for (size_t i = 0; i < rows.size(); ++i) {
    RowScore state{.row = i, .best = {}, .logit = 0.0F};
    bool failed = false;
    for (size_t of_rank = 0; of_rank < all.size(); of_rank += mine.size()) {
      const auto theirs = std::span(all).subspan(of_rank + first[i], CandidatesEach(rows[i]) + 1);
      for (const Candidate& candidate : theirs.first(theirs.size() - 1)) {
        failed = failed || candidate.token == kFailedToken;
        if (candidate.token >= 0) state.best.push_back(candidate);
      }
      if (theirs.back().token >= 0) state.logit = theirs.back().logit;
    }
    if (failed || state.best.empty()) continue;
    SortBestFirst(state.best);
    states.push_back(std::move(state));
  }
  return states;
}

TokenLogprobs LogprobsOf(const ScoreRow& row, const RowScore& state, double total) {
  const float max = state.best.front().logit;
  const double log_sum = Log(total);
  const auto logprob = [&](float logit) {
    const double exact = (static_cast<double>(logit) - static_cast<double>(max)) - log_sum;
    return static_cast<float>(
        std::max(exact, static_cast<double>(std::numeric_limits<float>::lowest())));
  };
  TokenLogprobs result{.chosen = {.token = row.token, .logprob = logprob(state.logit)}, .top = {}};
  const size_t top = std::min(static_cast<size_t>(row.top), state.best.size());
  for (const Candidate& candidate : std::span(state.best).first(top)) {
    result.top.push_back({.token = candidate.token, .logprob = logprob(candidate.logit)});
  }
  return result;
}

}  // namespace

absl::Status ScoreRows(std::span<const ScoreRow> rows, ShardLogits& logits, Collective& collective,
                       const StepPhase& phase, ParallelTasks parallel_for,
                       std::span<TokenScore> out) {
  std::fill(out.begin(), out.end(), std::nullopt);
  if (rows.empty()) return absl::OkStatus();
  TANDEM_ASSIGN_OR_RETURN(const std::vector<RowScore> states,
                          GatherBest(rows, logits, collective, phase));
  if (states.empty()) return absl::OkStatus();
  std::vector<RowToSum> to_sum;
  std::vector<RowSums> gathered(states.size());
  to_sum.reserve(states.size());
  for (const RowScore& state : states) {
    to_sum.push_back({rows[state.row].row, rows[state.row].largest_shard});
  }
  const auto sum_blocks = [&](std::span<const std::span<double>> sums) {
    std::vector<ShardLogits::SumsOfRow> wanted;
    for (size_t i = 0; i < states.size(); ++i) {
      wanted.push_back({to_sum[i].row, WithBest(states[i].best.front().logit), sums[i]});
    }
    logits.SumWholeBlocks(wanted, SumOrder::kLanes);
  };
  TANDEM_RETURN_IF_ERROR(
      GatherSums(to_sum, logits, collective, phase, parallel_for, sum_blocks, gathered));
  parallel_for(static_cast<int64_t>(states.size()), [&](int64_t task) {
    const auto i = static_cast<size_t>(task);
    const RowScore& state = states[i];
    const double total = SumOverAll(gathered[i], WithBest(state.best.front().logit));
    out[state.row] = LogprobsOf(rows[state.row], state, total);
  });
  return absl::OkStatus();
}

}  // namespace tandem::core
