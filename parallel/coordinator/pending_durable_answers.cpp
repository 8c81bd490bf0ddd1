#include "parallel/coordinator/pending_durable_answers.h"

#include <algorithm>

namespace tandem::parallel {

void PendingDurableAnswers::Hold(RequestId id, FinishReason reason, Time now) {
  held_[id] = {.reason = reason, .deadline = now + deadline_, .step = {}};
}

void PendingDurableAnswers::MarkLeft(uint64_t step) {
  marks_[step] = {};
  for (auto& [id, entry] : held_) {
    if (!entry.step) entry.step = step;
  }
}

std::vector<PendingDurableAnswers::Held> PendingDurableAnswers::Take(const RecordReport& report) {
  std::vector<Held> released;
  const auto mark = marks_.find(report.id);
  if (mark == marks_.end()) return released;
  mark->second.safe = mark->second.safe && report.safe;
  if (++mark->second.reports < ranks_) return released;
  for (auto it = held_.begin(); it != held_.end();) {
    if (it->second.step != report.id) {
      ++it;
      continue;
    }
    released.push_back({.id = it->first, .reason = it->second.reason, .saved = mark->second.safe});
    it = held_.erase(it);
  }
  marks_.erase(mark);
  return released;
}

std::vector<PendingDurableAnswers::Held> PendingDurableAnswers::TakeLate(Time now) {
  std::vector<Held> late;
  for (auto it = held_.begin(); it != held_.end();) {
    if (it->second.deadline > now) {
      ++it;
      continue;
    }
    late.push_back({.id = it->first, .reason = it->second.reason, .saved = false});
    it = held_.erase(it);
  }
  return late;
}

std::optional<PendingDurableAnswers::Held> PendingDurableAnswers::Release(RequestId id) {
  const auto found = held_.find(id);
  if (found == held_.end()) return std::nullopt;
  const Held held{.id = id, .reason = found->second.reason, .saved = false};
  held_.erase(found);
  return held;
}

std::vector<PendingDurableAnswers::Held> PendingDurableAnswers::ReleaseAll() {
  return TakeLate(Time::max());
}

std::optional<PendingDurableAnswers::Time> PendingDurableAnswers::next_deadline() const {
  std::optional<Time> next;
  for (const auto& [id, entry] : held_) {
    next = std::min(next.value_or(entry.deadline), entry.deadline);
  }
  return next;
}

}  // namespace tandem::parallel
