#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "kv_store/records/tier.h"
#include "parallel/plan/record_report.h"
#include "parallel/schedule/restore_rates.h"
#include "parallel/schedule/scheduler.h"

namespace tandem::parallel {

/// Which probes and fetches are open, who has answered them, and their deadlines. A late answer is
/// a miss; until it has come, the tiers are asked nothing else. Thread safety: none.
class FetchTracker {
 public:
  using Time = std::chrono::steady_clock::time_point;
  /// What became of a fetch, for Scheduler::Fetched.
  struct Outcome {
    FetchId id = 0;
    std::vector<kv_store::TierKind> from;
    bool late = false;
  };

  /// least, deadline: as in RecordOptions. A fetch of more than 1,024 tokens has proportionally
  /// more time.
  FetchTracker(size_t ranks, std::chrono::milliseconds least, std::chrono::milliseconds deadline)
      : ranks_(ranks), least_(least), deadline_(deadline) {}

  /// Whether so many tokens should be looked for now, or fetched from there.
  bool Worth(int32_t tokens, std::optional<kv_store::TierKind> from) {
    return overdue_.empty() && rates_.Worth(from, tokens);
  }
  void StepTook(const ScheduledStep& step, double seconds);

  void ProbeBegins(FetchId id, int32_t tokens, Time now);
  void ProbeEnds(FetchId id);
  void FetchBegins(const BegunFetch& fetch, Time now);
  /// Takes a rank's report. Returns the outcome if this was the last report of the fetch.
  std::optional<Outcome> Take(const RecordReport& report, Time now);
  /// Takes a rank's report that pages are filled; whether it was the last one of the fetch.
  bool TakeLoaded(FetchId fetch);
  /// The fetches whose deadline has passed.
  std::vector<Outcome> TakeLate(Time now);
  std::optional<Time> next_deadline() const;

 private:
  struct Entry {
    Time begun;
    Time deadline;
    bool probing = true;
    int32_t tokens = 0;
    size_t reports = 0;                          // of ranks
    bool good = false;                           // `from` is set
    std::optional<kv_store::TierKind> expected;  // of a fetch
    std::vector<kv_store::TierKind> from;
  };
  /// `most` and no longer than computing takes.
  Time DeadlineOf(int32_t tokens, std::chrono::duration<double> most, Time now) const;

  const size_t ranks_;
  const std::chrono::milliseconds least_;
  const std::chrono::milliseconds deadline_;
  RestoreRates rates_;
  std::map<FetchId, Entry> open_;
  std::map<FetchId, size_t> overdue_;  // answers that are still to come
  std::map<FetchId, size_t> loaded_;   // ranks that have filled their pages, until all have
};

}  // namespace tandem::parallel
