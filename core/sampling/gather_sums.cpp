#include "core/sampling/gather_sums.h"

#include <algorithm>
#include <cstring>

#include "core/base/check.h"
#include "core/sampling/token_choice.h"

namespace tandem::core {
namespace {

constexpr int64_t kMostEdgeRows = 2 * (kSumRows - 1);

/// A shard's rows outside of its whole blocks: before and after them.
struct EdgeRows {
  Range before;
  Range after;
};

EdgeRows EdgesOf(Range vocab_rows) {
  const Range whole = WholeBlocks(vocab_rows);
  if (whole.count == 0) return {vocab_rows, {vocab_rows.end(), 0}};
  const int64_t first = whole.begin * kSumRows;
  const int64_t end = whole.end() * kSumRows;
  return {{vocab_rows.begin, first - vocab_rows.begin}, {end, vocab_rows.end() - end}};
}

/// How the sums of a row travel: those of the whole blocks, then the logits of the edges. Room for
/// the largest shard.
struct SumsLayout {
  explicit SumsLayout(const RowToSum& row)
      : sums(static_cast<size_t>(row.largest_shard / kSumRows)),
        edge_rows(static_cast<size_t>(std::min(row.largest_shard, kMostEdgeRows))) {}
  /// A multiple of 8.
  size_t bytes() const { return sums * sizeof(double) + (edge_rows + 1) / 2 * 2 * sizeof(float); }
  size_t sums;
  size_t edge_rows;
};

/// Adds what one rank knows of a row. from: as SumsLayout has it.
void AddSums(const RowToSum& row, Range vocab_rows, const std::byte* from, RowSums& to) {
  const Range whole = WholeBlocks(vocab_rows);
  const auto* const of_blocks = reinterpret_cast<const double*>(from);
  if (whole.count > 0 && to.sums.size() < static_cast<size_t>(whole.end())) {
    to.sums.resize(static_cast<size_t>(whole.end()));
  }
  std::copy_n(of_blocks, whole.count, to.sums.begin() + (whole.count > 0 ? whole.begin : 0));
  const auto* logit = reinterpret_cast<const float*>(of_blocks + SumsLayout(row).sums);
  const EdgeRows edges = EdgesOf(vocab_rows);
  for (const Range& range : {edges.before, edges.after}) {
    for (int64_t token = range.begin; token < range.end(); ++token) {
      to.edges.push_back({*logit++, static_cast<int32_t>(token)});
    }
  }
}

}  // namespace

absl::Status GatherSums(std::span<const RowToSum> rows, ShardLogits& logits, Collective& collective,
                        const StepPhase& phase, ParallelTasks parallel_for,
                        absl::FunctionRef<void(std::span<const std::span<double>> sums)> sum_blocks,
                        std::span<RowSums> out) {
  const Range mine = logits.vocab_rows();
  const Range whole = WholeBlocks(mine);
  const EdgeRows edges = EdgesOf(mine);
  std::vector<size_t> first = {sizeof(Range)};
  for (const RowToSum& row : rows) {
    TANDEM_CHECK(mine.count <= row.largest_shard, "a shard is larger than the largest");
    first.push_back(first.back() + SumsLayout(row).bytes());
  }
  std::vector<std::byte> message(first.back());
  std::memcpy(message.data(), &mine, sizeof(mine));
  std::vector<std::span<double>> sums;
  std::vector<ShardLogits::PartOfRow> parts;
  for (size_t i = 0; i < rows.size(); ++i) {
    auto* const of_blocks = reinterpret_cast<double*>(&message[first[i]]);
    auto* const of_edges = reinterpret_cast<float*>(of_blocks + SumsLayout(rows[i]).sums);
    sums.emplace_back(of_blocks, static_cast<size_t>(whole.count));
    parts.push_back(
        {rows[i].row, edges.before.begin, {of_edges, static_cast<size_t>(edges.before.count)}});
    parts.push_back({rows[i].row,
                     edges.after.begin,
                     {of_edges + edges.before.count, static_cast<size_t>(edges.after.count)}});
  }
  sum_blocks(sums);
  logits.Read(parts);
  std::vector<std::byte> all(message.size() * static_cast<size_t>(collective.size()));
  TANDEM_RETURN_IF_ERROR(collective.AllGather(message, all, phase));
  parallel_for(static_cast<int64_t>(rows.size()), [&](int64_t task) {
    const auto i = static_cast<size_t>(task);
    for (size_t of_rank = 0; of_rank < all.size(); of_rank += message.size()) {
      const std::byte* const theirs = &all[of_rank];
      Range vocab_rows;
      std::memcpy(&vocab_rows, theirs, sizeof(vocab_rows));
      AddSums(rows[i], vocab_rows, theirs + first[i], out[i]);
    }
    SortByToken(out[i].edges);
  });
  return absl::OkStatus();
}

}  // namespace tandem::core
