#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "core/base/status.h"
#include "parallel/engine/engine.h"
#include "parallel/plan/record_report.h"

namespace tandem::parallel {

/// Durable requests that are done, but whose clients are not told so yet: that waits until all
/// ranks have flushed their records, or until a deadline. Thread safety: none.
class PendingDurableAnswers {
 public:
  using Time = std::chrono::steady_clock::time_point;
  struct Held {
    RequestId id = 0;
    FinishReason reason = FinishReason::kStop;
    bool saved = false;
  };

  PendingDurableAnswers(size_t ranks, std::chrono::milliseconds deadline)
      : ranks_(ranks), deadline_(deadline) {}

  /// The next plan brings its records and a flush mark.
  void Hold(RequestId id, FinishReason reason, Time now);
  /// A plan with a flush mark has left.
  void MarkLeft(uint64_t step);
  /// Takes a rank's report. Returns the requests whose outcome it decides.
  std::vector<Held> Take(const RecordReport& report);
  /// The requests whose deadline has passed.
  std::vector<Held> TakeLate(Time now);
  /// Takes a request out; nothing if it is not here.
  std::optional<Held> Release(RequestId id);
  std::vector<Held> ReleaseAll();
  std::optional<Time> next_deadline() const;

 private:
  struct Entry {
    FinishReason reason = FinishReason::kStop;
    Time deadline;
    std::optional<uint64_t> step;  // of the plan with its mark
  };
  struct Mark {
    size_t reports = 0;
    bool safe = true;
  };

  const size_t ranks_;
  const std::chrono::milliseconds deadline_;
  std::map<RequestId, Entry> held_;
  std::map<uint64_t, Mark> marks_;  // by step; those that not all ranks have reached
};

}  // namespace tandem::parallel
