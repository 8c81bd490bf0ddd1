#include "core/cuda/cuda_logits.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "core/cuda/workspace_limits.h"
#include "core/model/device_link.h"
#include "core/model/device_status.h"
#include "core/sampling/sampler.h"
#include "core/sampling/token_choice.h"

namespace tandem::core {
namespace {

/// Takes `rows` to the host, and gives each of `wanted` its part, one after the other.
template <typename T, typename Wanted>
void TakeEach(CudaReductions& reductions, Rows<T>& rows, std::span<const Wanted> wanted) {
  std::vector<T> taken(static_cast<size_t>(rows.rows()));
  const CopyRun run{.device = reinterpret_cast<std::byte*>(rows.data()),
                    .host = reinterpret_cast<std::byte*>(taken.data()),
                    .bytes = taken.size() * sizeof(T)};
  reductions.CopyToHost({&run, 1});
  auto from = taken.begin();
  for (const Wanted& of : wanted) {
    std::copy_n(from, of.out.size(), of.out.begin());
    from += static_cast<ptrdiff_t>(of.out.size());
  }
}

}  // namespace

void CudaLogits::ApplyPenalties(std::span<const SampleRow> rows) {
  std::vector<LogitChange> changes;
  std::vector<int64_t> kept;
  const auto add = [&](const SampleRow& row, int64_t column, float value) {
    changes.push_back({row.row * vocab_rows_.count + column, value});
    if (row.scored) kept.push_back(changes.back().at);
  };
  for (const SampleRow& row : rows) {
    for (const auto& [token, bias] : row.params->logit_bias) {
      if (token < vocab_rows_.begin || token >= vocab_rows_.end()) continue;
      add(row, token - vocab_rows_.begin, bias);
    }
  }
  const auto earlier = [](const LogitChange& a, const LogitChange& b) { return a.at < b.at; };
  std::stable_sort(changes.begin(), changes.end(), earlier);
  const auto biases = static_cast<int64_t>(changes.size());
  for (const SampleRow& row : rows) {
    if (row.params->repetition_penalty == 1.0F) continue;
    ForEachSeenRow(row.history, vocab_rows_,
                   [&](int64_t seen) { add(row, seen, row.params->repetition_penalty); });
  }
  const int64_t penalized = static_cast<int64_t>(changes.size()) - biases;
  for (const SampleRow& row : rows) {
    ForEachAnsweredRow(*row.params, row.token_index, row.history, vocab_rows_,
                       [&](int64_t answered, float penalty) { add(row, answered, -penalty); });
  }
  std::sort(changes.begin() + biases + penalized, changes.end(), earlier);
  const int64_t subtracted = static_cast<int64_t>(changes.size()) - biases - penalized;
  for (const SampleRow& row : rows) {
    if (!WithholdsEndTokens(*row.params, row.token_index)) continue;
    for (const int32_t token : row.params->end_tokens) {
      if (token < vocab_rows_.begin || token >= vocab_rows_.end()) continue;
      add(row, token - vocab_rows_.begin, 0.0F);
    }
  }
  Keep(std::move(kept));
  const LogitChange* sent = changes_.Send(changes);
  LaunchAddBiases(memory_.stream(), sent, biases, data_);
  sent += biases;
  LaunchPenalize(memory_.stream(), sent, penalized, data_);
  sent += penalized;
  LaunchAddBiases(memory_.stream(), sent, subtracted, data_);
  sent += subtracted;
  LaunchWithhold(memory_.stream(), sent,
                 static_cast<int64_t>(changes.size()) - biases - penalized - subtracted, data_);
}

void CudaLogits::Keep(std::vector<int64_t> places) {
  std::sort(places.begin(), places.end());
  places.erase(std::unique(places.begin(), places.end()), places.end());
  kept_values_.SetRows(static_cast<int64_t>(places.size()));
  LaunchKeep(memory_.stream(), kept_.Send(places), kept_values_.rows(), data_, kept_values_.data());
}

void CudaLogits::Restore() {
  LaunchRestore(memory_.stream(), kept_.rows.data(), kept_values_.data(), kept_values_.rows(),
                data_);
  kept_values_.SetRows(0);
}

void CudaLogits::SelectCandidates(std::span<const BestOfRow> wanted) {
  std::vector<CountOfRow> counts;
  for (const BestOfRow& of : wanted) {
    counts.push_back({of.row, static_cast<int32_t>(of.out.size())});
  }
  if (SelectOnDevice(counts)) TakeEach(reductions_, candidates_, wanted);
}

absl::Status CudaLogits::GatherCandidates(std::span<const CountOfRow> wanted,
                                          Collective& collective, const StepPhase& phase,
                                          std::span<Candidate> all) {
  DeviceLink* const link = collective.device_link();
  if (link == nullptr) return ShardLogits::GatherCandidates(wanted, collective, phase, all);
  if (!SelectOnDevice(wanted)) return absl::OkStatus();
  TANDEM_RETURN_IF_ERROR(GatherOnDevices(*link, all.size(), collective, phase));
  const CopyRun run{.device = reinterpret_cast<std::byte*>(gathered_.data()),
                    .host = reinterpret_cast<std::byte*>(all.data()),
                    .bytes = all.size_bytes()};
  reductions_.CopyToHost({&run, 1});
  return absl::OkStatus();
}

absl::Status CudaLogits::GatherOnDevices(DeviceLink& link, size_t count, Collective& collective,
                                         const StepPhase& phase) {
  gathered_.SetRows(static_cast<int64_t>(count));
  const auto bytes_of = [](Rows<Candidate>& rows) {
    return std::as_writable_bytes(std::span(rows.data(), static_cast<size_t>(rows.rows())));
  };
  TANDEM_RETURN_IF_ERROR(link.AllGather(bytes_of(candidates_), bytes_of(gathered_)));
  reductions_.Put(collective, phase);
  return absl::OkStatus();
}

absl::Status CudaLogits::ChooseBest(std::span<const SampleRow> rows, Collective& collective,
                                    const StepPhase& phase, int32_t* tokens) {
  std::vector<CountOfRow> wanted;
  for (const SampleRow& row : rows) wanted.push_back({row.row, 1});
  if (!SelectOnDevice(wanted)) return absl::OkStatus();
  const auto ranks = static_cast<size_t>(collective.size());
  const Candidate* of_ranks = candidates_.data();
  if (DeviceLink* const link = collective.device_link()) {
    TANDEM_RETURN_IF_ERROR(GatherOnDevices(*link, rows.size() * ranks, collective, phase));
    of_ranks = gathered_.data();
  }
  LaunchChooseBest(memory_.stream(), of_ranks, static_cast<int64_t>(ranks),
                   static_cast<int64_t>(rows.size()), tokens);
  return absl::OkStatus();
}

bool CudaLogits::SelectOnDevice(std::span<const CountOfRow> wanted) {
  std::vector<SelectedRow> rows;
  int64_t first = 0;
  for (const CountOfRow& of : wanted) {
    if (of.count > 0) rows.push_back({.row = of.row, .first = first, .count = of.count});
    first += of.count;
  }
  if (rows.empty()) return false;
  candidates_.SetRows(first);
  // Those that want about as many are selected together.
  const auto most = [](const SelectedRow& row) {
    return std::bit_ceil(static_cast<uint32_t>(row.count));
  };
  std::stable_sort(rows.begin(), rows.end(),
                   [&](const SelectedRow& a, const SelectedRow& b) { return most(a) < most(b); });
  const SelectedRow* sent = selected_.Send(rows);
  for (size_t begin = 0; begin < rows.size();) {
    const auto count = static_cast<int32_t>(most(rows[begin]));
    const int64_t keys = SelectionKeys(vocab_rows_.count, count);
    const int64_t together =
        keys == 0 ? kMostSelectionKeys : std::max<int64_t>(kMostSelectionKeys / keys, 1);
    size_t end = begin;
    while (end < rows.size() && most(rows[end]) == most(rows[begin]) &&
           static_cast<int64_t>(end - begin) < together) {
      ++end;
    }
    const auto row_count = static_cast<int64_t>(end - begin);
    keys_.SetRows(row_count * keys);
    LaunchSelectCandidates(memory_.stream(), logit_rows(), sent + begin, row_count, count,
                           keys_.data(), candidates_.data());
    begin = end;
  }
  return true;
}

void CudaLogits::SumWholeBlocks(std::span<const SumsOfRow> wanted, SumOrder order) {
  const Range blocks = WholeBlocks(vocab_rows_);
  if (wanted.empty() || blocks.count == 0) return;
  std::vector<SummedRow> rows;
  for (const SumsOfRow& of : wanted) rows.push_back({of.row, of.softmax});
  sums_.SetRows(static_cast<int64_t>(rows.size()) * blocks.count);
  LaunchSumBlocks(memory_.stream(), logit_rows(), summed_.Send(rows),
                  static_cast<int64_t>(rows.size()), order,
                  blocks.begin * kSumRows - vocab_rows_.begin, blocks.count, sums_.data());
  TakeEach(reductions_, sums_, wanted);
}

void CudaLogits::Read(std::span<const PartOfRow> wanted) {
  std::vector<LogitPart> parts;
  int64_t to = 0;
  for (const PartOfRow& of : wanted) {
    const auto count = static_cast<int64_t>(of.out.size());
    const int64_t from = of.row * vocab_rows_.count + of.first_token - vocab_rows_.begin;
    if (count > 0) parts.push_back({from, to, count});
    to += count;
  }
  if (parts.empty()) return;
  read_.SetRows(to);
  LaunchReadParts(memory_.stream(), logit_rows(), parts_.Send(parts),
                  static_cast<int64_t>(parts.size()), read_.data());
  TakeEach(reductions_, read_, wanted);
}

}  // namespace tandem::core
