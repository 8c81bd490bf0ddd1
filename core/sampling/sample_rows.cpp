#include "core/sampling/sample_rows.h"

#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

#include "core/sampling/gather_sums.h"
#include "core/sampling/sampler.h"
#include "core/sampling/token_choice.h"

namespace tandem::core {
namespace {

/// What is known of a row's choice.
struct RowState {
  size_t row = 0;        // of the rows that are sampled
  int32_t per_rank = 0;  // candidates
  size_t first = 0;      // of a rank's candidates, that of the row
  float best = 0.0F;     // logit
  RowSums of_blocks;     // with the sums of all of them
};

class SampleStep {
 public:
  SampleStep(std::span<const SampleRow> rows, ShardLogits& logits, Collective& collective,
             const StepPhase& phase, ParallelTasks parallel_for, std::span<SampledToken> out)
      : rows_(rows),
        logits_(logits),
        collective_(collective),
        phase_(phase),
        parallel_for_(parallel_for),
        out_(out) {}

  absl::Status Run() {
    ApplyPenalties();
    std::vector<RowState> open(rows_.size());
    for (size_t i = 0; i < open.size(); ++i) {
      open[i].row = i;
      open[i].per_rank = FirstCandidates(rows_[i]);
    }
    TANDEM_RETURN_IF_ERROR(GatherCandidates(open));
    RemoveDone(open, [this](RowState& state) { return ChooseIfComplete(state); });
    if (open.empty()) return absl::OkStatus();

    TANDEM_RETURN_IF_ERROR(GatherSums(open));
    const auto with_top_p = std::stable_partition(
        open.begin(), open.end(),
        [this](const RowState& state) { return ParamsOf(state).top_p == 1.0F; });
    TANDEM_RETURN_IF_ERROR(DrawBySums({open.begin(), with_top_p}));
    open.erase(open.begin(), with_top_p);
    while (true) {
      RemoveDone(open, [this](RowState& state) { return ChooseIfCertain(state); });
      if (open.empty()) return absl::OkStatus();
      for (RowState& state : open) state.per_rank = MoreCandidates(state);
      TANDEM_RETURN_IF_ERROR(GatherCandidates(open));
      RemoveDone(open, [this](RowState& state) { return ChooseIfComplete(state); });
    }
  }

 private:
  const SamplingParams& ParamsOf(const RowState& state) const { return *rows_[state.row].params; }
  Softmax SoftmaxOf(const RowState& state, float smallest) const {
    return {state.best, ParamsOf(state).temperature, smallest};
  }

  void ApplyPenalties() {
    std::vector<SampleRow> changed;
    for (const SampleRow& row : rows_) {
      if (ChangesLogits(*row.params)) changed.push_back(row);
    }
    if (!changed.empty()) logits_.ApplyPenalties(changed);
  }

  static int32_t FirstCandidates(const SampleRow& row) {
    const SamplingParams& params = *row.params;
    if (params.temperature == 0.0F || params.top_k > 0) return row.candidates;
    return std::min(row.candidates, params.top_p < 1.0F ? kFewCandidates : 1);
  }
  int32_t MoreCandidates(const RowState& state) const {
    const int32_t all = rows_[state.row].candidates;
    const bool at_hand = collective_.size() == 1 && logits_.in_host_memory();
    return at_hand || state.per_rank > all / 64 ? all : 16 * state.per_rank;
  }

  /// Removes the rows for which done(state) says so, many at once.
  template <typename Done>
  void RemoveDone(std::vector<RowState>& open, const Done& done) {
    std::vector<uint8_t> is_done(open.size());
    parallel_for_(static_cast<int64_t>(open.size()), [&](int64_t task) {
      const auto i = static_cast<size_t>(task);
      is_done[i] = done(open[i]) ? 1 : 0;
    });
    size_t kept = 0;
    for (size_t i = 0; i < open.size(); ++i) {
      if (is_done[i] == 0 && kept++ != i) open[kept - 1] = std::move(open[i]);
    }
    open.resize(kept);
  }

  absl::Status GatherCandidates(std::span<RowState> open) {
    size_t count = 0;
    for (RowState& state : open) {
      state.first = count;
      count += static_cast<size_t>(state.per_rank);
    }
    std::vector<ShardLogits::CountOfRow> wanted;
    for (const RowState& state : open) wanted.push_back({rows_[state.row].row, state.per_rank});
    candidates_.resize(count * static_cast<size_t>(collective_.size()));
    return logits_.GatherCandidates(wanted, collective_, phase_, candidates_);
  }

  /// Calls visit with the row's candidates of each rank.
  template <typename Visit>
  void ForEachRank(const RowState& state, Visit visit) const {
    const size_t each = candidates_.size() / static_cast<size_t>(collective_.size());
    for (size_t of_rank = 0; of_rank < candidates_.size(); of_rank += each) {
      visit(std::span(candidates_)
                .subspan(of_rank + state.first, static_cast<size_t>(state.per_rank)));
    }
  }

  /// Chooses if there is nothing more to gather, or a rank failed; else notes the best.
  bool ChooseIfComplete(RowState& state) {
    const SampleRow& row = rows_[state.row];
    if (state.per_rank == row.candidates) {
      std::vector<Candidate> candidates;
      ForEachRank(state, [&](std::span<const Candidate> of_rank) {
        candidates.insert(candidates.end(), of_rank.begin(), of_rank.end());
      });
      out_[state.row] = SampleToken(*row.params, row.token_index, std::move(candidates));
      return true;
    }
    Candidate best;
    bool failed = false;
    ForEachRank(state, [&](std::span<const Candidate> of_rank) {
      for (const Candidate& candidate : of_rank) {
        failed = failed || candidate.token == kFailedToken;
        if (candidate.token < 0) continue;
        if (best.token == kPaddingToken || Better(candidate, best)) best = candidate;
      }
    });
    failed = failed || best.token == kPaddingToken;
    if (failed) out_[state.row] = std::nullopt;
    state.best = best.logit;
    return failed;
  }

  absl::Status GatherSums(std::span<RowState> open) {
    std::vector<RowToSum> rows;
    std::vector<RowSums> gathered(open.size());
    for (const RowState& state : open) {
      rows.push_back({rows_[state.row].row, rows_[state.row].candidates});
    }
    const auto sum_blocks = [&](std::span<const std::span<double>> sums) {
      std::vector<ShardLogits::SumsOfRow> wanted;
      for (size_t i = 0; i < open.size(); ++i) {
        wanted.push_back({rows[i].row, SoftmaxForSums(open[i]), sums[i]});
      }
      logits_.SumWholeBlocks(wanted, SumOrder::kRows);
    };
    TANDEM_RETURN_IF_ERROR(
        core::GatherSums(rows, logits_, collective_, phase_, parallel_for_, sum_blocks, gathered));
    parallel_for_(static_cast<int64_t>(open.size()), [&](int64_t task) {
      RowState& state = open[static_cast<size_t>(task)];
      state.of_blocks = std::move(gathered[static_cast<size_t>(task)]);
      std::vector<double>& sums = state.of_blocks.sums;
      for (const BlockSum& block : SumBlocks(state.of_blocks.edges, SoftmaxForSums(state))) {
        const auto number = static_cast<size_t>(block.candidates.front().token / kSumRows);
        if (number >= sums.size()) sums.resize(number + 1);
        sums[number] = block.sum;
      }
    });
    return absl::OkStatus();
  }

  /// Without top_p, min_p acts at once.
  Softmax SoftmaxForSums(const RowState& state) const {
    const SamplingParams& params = ParamsOf(state);
    return SoftmaxOf(state, params.top_p < 1.0F ? 0.0F : params.min_p);
  }

  /// All tokens may be drawn: finds the block, and the rank that has it finds the token.
  absl::Status DrawBySums(std::span<RowState> open) {
    if (open.empty()) return absl::OkStatus();
    const Range whole = WholeBlocks(logits_.vocab_rows());
    std::vector<PlaceInSums> places(open.size());
    std::vector<std::vector<float>> blocks(open.size());  // logits, of those that this rank has
    std::vector<ShardLogits::PartOfRow> parts;
    for (size_t i = 0; i < open.size(); ++i) {
      const SampleRow& row = rows_[open[i].row];
      places[i] = FindBlock(open[i].of_blocks.sums, Uniform(*row.params, row.token_index));
      const auto block = static_cast<int64_t>(places[i].block);
      if (block < whole.begin || block >= whole.end()) continue;
      blocks[i].resize(size_t{kSumRows});
      parts.push_back({row.row, block * kSumRows, blocks[i]});
    }
    logits_.Read(parts);
    std::vector<int32_t> mine(open.size(), kPaddingToken);
    for (size_t i = 0; i < open.size(); ++i) {
      const std::vector<Candidate> candidates = CandidatesOf(places[i], blocks[i], open[i]);
      if (candidates.empty()) continue;
      mine[i] = FindToken(candidates, SoftmaxForSums(open[i]), places[i].within);
    }
    std::vector<int32_t> all(mine.size() * static_cast<size_t>(collective_.size()));
    TANDEM_RETURN_IF_ERROR(Gather(std::span<const int32_t>(mine), std::span(all)));
    for (size_t i = 0; i < open.size(); ++i) {
      int32_t token = kPaddingToken;
      for (size_t of_rank = 0; of_rank < all.size(); of_rank += mine.size()) {
        token = std::max(token, all[of_rank + i]);
      }
      out_[open[i].row] = token;
    }
    return absl::OkStatus();
  }

  /// The rows of a block, ascending by token: of this rank, or edges; else none.
  static std::vector<Candidate> CandidatesOf(const PlaceInSums& place,
                                             std::span<const float> logits, const RowState& state) {
    std::vector<Candidate> candidates;
    const auto block = static_cast<int32_t>(place.block);
    for (const float logit : logits) {
      candidates.push_back({logit, block * kSumRows + static_cast<int32_t>(candidates.size())});
    }
    std::copy_if(state.of_blocks.edges.begin(), state.of_blocks.edges.end(),
                 std::back_inserter(candidates),
                 [block](const Candidate& edge) { return edge.token / kSumRows == block; });
    return candidates;
  }

  /// Draws if the candidates that are surely the best of all reach top_p.
  bool ChooseIfCertain(RowState& state) {
    const SampleRow& row = rows_[state.row];
    // Nothing is known of tokens that are worse than the last of a full list.
    Candidate bound;
    ForEachRank(state, [&](std::span<const Candidate> of_rank) {
      const auto worst = std::max_element(of_rank.begin(), of_rank.end(), Better);
      const bool full = std::none_of(of_rank.begin(), of_rank.end(),
                                     [](const Candidate& c) { return c.token == kPaddingToken; });
      if (full && (bound.token == kPaddingToken || Better(*worst, bound))) bound = *worst;
    });
    std::vector<Candidate> certain;
    ForEachRank(state, [&](std::span<const Candidate> of_rank) {
      std::copy_if(of_rank.begin(), of_rank.end(), std::back_inserter(certain),
                   [&](const Candidate& candidate) {
                     return candidate.token != kPaddingToken &&
                            (bound.token == kPaddingToken || !Better(bound, candidate));
                   });
    });
    const double wanted = static_cast<double>(row.params->top_p) * TotalOf(state.of_blocks.sums);
    if (!KeepBest(certain, wanted, SoftmaxOf(state, 0.0F))) return false;
    SortByToken(certain);
    out_[state.row] = DrawToken(certain, SoftmaxOf(state, row.params->min_p),
                                Uniform(*row.params, row.token_index));
    return true;
  }

  template <typename T>
  absl::Status Gather(std::span<const T> mine, std::span<T> all) {
    return collective_.AllGather(std::as_bytes(mine), std::as_writable_bytes(all), phase_);
  }

  std::span<const SampleRow> rows_;
  ShardLogits& logits_;
  Collective& collective_;
  StepPhase phase_;
  ParallelTasks parallel_for_;
  std::span<SampledToken> out_;
  std::vector<Candidate> candidates_;  // of all ranks, of the rows that are open
};

}  // namespace

absl::Status SampleRows(std::span<const SampleRow> rows, ShardLogits& logits,
                        Collective& collective, const StepPhase& phase, ParallelTasks parallel_for,
                        std::span<SampledToken> out) {
  const bool any = std::any_of(rows.begin(), rows.end(),
                               [](const SampleRow& row) { return row.candidates > 0; });
  if (!any) return absl::OkStatus();
  absl::Status status = SampleStep(rows, logits, collective, phase, parallel_for, out).Run();
  logits.Restore();
  return status;
}

}  // namespace tandem::core
