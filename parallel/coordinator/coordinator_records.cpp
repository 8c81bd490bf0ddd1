#include <algorithm>
#include <chrono>
#include <utility>

#include "parallel/coordinator/coordinator.h"

// The part of the coordinator that saves records and brings them back.

namespace tandem::parallel {

using Clock = std::chrono::steady_clock;

void Coordinator::ListenToRecords() {
  if (setup_.spilled) {
    setup_.spilled->Listen([this](const RecordReport& report) {
      const MutexLock lock(mutex_);
      inbox_.reports.push_back(report);
      changed_.NotifyAll();
    });
  }
  if (!setup_.records) return;
  scheduler_.SetRestoreWorth([this](int32_t tokens, std::optional<kv_store::TierKind> from) {
    return fetches_.Worth(tokens, from);
  });
  setup_.records->Listen(
      [this](const RecordReport& report) {
        const MutexLock lock(mutex_);
        inbox_.reports.push_back(report);
        changed_.NotifyAll();
      },
      [this](FetchId probe, SavedTokens saved) {
        const MutexLock lock(mutex_);
        inbox_.probed.emplace_back(probe, saved);
        changed_.NotifyAll();
      });
}

void Coordinator::TakeRecordNews(const Inbox& inbox) {
  const Clock::time_point now = Clock::now();
  for (const auto& [probe, saved] : inbox.probed) {
    fetches_.ProbeEnds(probe);
    if (const auto begun = scheduler_.Probed(probe, saved)) fetches_.FetchBegins(*begun, now);
  }
  for (const RecordReport& report : inbox.reports) {
    if (report.kind == RecordReport::Kind::kLoaded) {
      // Of pages from the host tier it comes with no counts.
      if (limits_.loads_beside && fetches_.TakeLoaded(report.id)) scheduler_.Loaded(report.id);
      continue;
    }
    CountRecords(report);
    if (report.kind == RecordReport::Kind::kFetched) {
      if (const auto outcome = fetches_.Take(report, now)) {
        scheduler_.Fetched(outcome->id, outcome->from, outcome->late);
      }
    } else if (report.kind == RecordReport::Kind::kFlushed) {
      for (const PendingDurableAnswers::Held& held : held_.Take(report)) TellHeld(held);
    }
  }
  for (const PendingDurableAnswers::Held& held : held_.TakeLate(now)) TellHeld(held);
  const std::vector<FetchTracker::Outcome> late = fetches_.TakeLate(now);
  for (const FetchTracker::Outcome& outcome : late) {
    scheduler_.Fetched(outcome.id, outcome.from, outcome.late);
  }
  if (late.empty()) return;
  const MutexLock lock(mutex_);
  status_.late_fetches += late.size();
}

void Coordinator::AskForRecords() {
  if (!setup_.records) return;
  for (RecordProbe& probe : scheduler_.TakeProbes()) {
    fetches_.ProbeBegins(probe.id, static_cast<int32_t>(probe.tokens.size()), Clock::now());
    setup_.records->Probe(std::move(probe));
  }
}

void Coordinator::TellHeld(const PendingDurableAnswers::Held& held) {
  open_.Finish(held.id, held.reason, absl::OkStatus(), held.saved);
  if (held.saved) return;
  const MutexLock lock(mutex_);
  ++status_.not_durable;
}

void Coordinator::CountRecords(const RecordReport& report) {
  if (report.rank < 0 || static_cast<size_t>(report.rank) >= record_counts_.size()) return;
  record_counts_[static_cast<size_t>(report.rank)] = report.counts;
  RecordCounts sum;
  for (const RecordCounts& counts : record_counts_) sum += counts;
  const MutexLock lock(mutex_);
  status_.records = sum;
}

std::optional<Clock::time_point> Coordinator::NextRecordDeadline() const {
  const auto fetch = fetches_.next_deadline();
  const auto held = held_.next_deadline();
  if (fetch && held) return std::min(*fetch, *held);
  return fetch ? fetch : held;
}

}  // namespace tandem::parallel
