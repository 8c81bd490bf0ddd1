#include "core/sampling/shard_logits.h"

#include <algorithm>

#include "core/sampling/lane_sums.h"
#include "core/sampling/sampler.h"
#include "core/sampling/token_choice.h"

namespace tandem::core {

Range WholeBlocks(Range vocab_rows) {
  const int64_t first = (vocab_rows.begin + kSumRows - 1) / kSumRows;
  return {first, std::max<int64_t>(0, vocab_rows.end() / kSumRows - first)};
}

absl::Status ShardLogits::GatherCandidates(std::span<const CountOfRow> wanted,
                                           Collective& collective, const StepPhase& phase,
                                           std::span<Candidate> all) {
  std::vector<Candidate> mine(all.size() / static_cast<size_t>(collective.size()));
  std::vector<BestOfRow> best;
  size_t first = 0;
  for (const CountOfRow& of : wanted) {
    const auto count = static_cast<size_t>(of.count);
    best.push_back({of.row, std::span(mine).subspan(first, count)});
    first += count;
  }
  SelectCandidates(best);
  return collective.AllGather(std::as_bytes(std::span(mine)), std::as_writable_bytes(all), phase);
}

void HostLogits::ApplyPenalties(std::span<const SampleRow> rows) {
  for (const SampleRow& of : rows) {
    if (of.scored) kept_.push_back({of.row, {row(of.row).begin(), row(of.row).end()}});
  }
  parallel_for_(static_cast<int64_t>(rows.size()), [&](int64_t task) {
    const SampleRow& of = rows[static_cast<size_t>(task)];
    core::ApplyPenalties(*of.params, of.token_index, of.history, vocab_rows_.begin, row(of.row));
  });
}

void HostLogits::Restore() {
  for (const KeptRow& kept : kept_)
    std::copy(kept.logits.begin(), kept.logits.end(), row(kept.row).begin());
  kept_.clear();
}

void HostLogits::SelectCandidates(std::span<const BestOfRow> wanted) {
  parallel_for_(static_cast<int64_t>(wanted.size()), [&](int64_t task) {
    const BestOfRow& of = wanted[static_cast<size_t>(task)];
    core::SelectCandidates(row(of.row), vocab_rows_.begin, of.out);
  });
}

void HostLogits::SumWholeBlocks(std::span<const SumsOfRow> wanted, SumOrder order) {
  const Range blocks = WholeBlocks(vocab_rows_);
  const int64_t first = blocks.begin * kSumRows - vocab_rows_.begin;
  parallel_for_(static_cast<int64_t>(wanted.size()) * blocks.count, [&](int64_t task) {
    const SumsOfRow& of = wanted[static_cast<size_t>(task / blocks.count)];
    const int64_t block = task % blocks.count;
    const std::span<const float> logits =
        row(of.row).subspan(static_cast<size_t>(first + block * kSumRows), size_t{kSumRows});
    of.out[static_cast<size_t>(block)] =
        order == SumOrder::kRows ? SumOfBlock(logits, of.softmax) : SumInLanes(logits, of.softmax);
  });
}

void HostLogits::Read(std::span<const PartOfRow> wanted) {
  for (const PartOfRow& of : wanted) {
    std::copy_n(row(of.row).begin() + (of.first_token - vocab_rows_.begin), of.out.size(),
                of.out.begin());
  }
}

}  // namespace tandem::core
