#include "parallel/held_finishes.h"

#include <algorithm>

namespace tandem::parallel {

void HeldFinishes::Hold(RequestId id, FinishReason reason, Time now) {
  held_[id] = {.reason = reason, .deadline = now + deadline_, .step = {}};
}

void HeldFinishes::MarkLeft(uint64_t step) {
  marks_[step] = {};
  for (auto& [id, entry] : held_) {
    if (!entry.step) entry.step = step;
  }
}

std::vector<HeldFinishes::Held> HeldFinishes::Take(const RecordReport& report) {
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

std::vector<HeldFinishes::Held> HeldFinishes::TakeLate(Time now) {
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

std::optional<HeldFinishes::Held> HeldFinishes::Release(RequestId id) {
  const auto found = held_.find(id);
  if (found == held_.end()) return std::nullopt;
  const Held held{.id = id, .reason = found->second.reason, .saved = false};
  held_.erase(found);
  return held;
}

std::vector<HeldFinishes::Held> HeldFinishes::ReleaseAll() { return TakeLate(Time::max()); }

std::optional<HeldFinishes::Time> HeldFinishes::next_deadline() const {
  std::optional<Time> next;
  for (const auto& [id, entry] : held_) {
    next = std::min(next.value_or(entry.deadline), entry.deadline);
  }
  return next;
}

}  // namespace tandem::parallel
