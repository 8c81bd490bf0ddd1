#include "parallel/schedule/fetch_tracker.h"

#include <algorithm>
#include <utility>

namespace tandem::parallel {

void FetchTracker::StepTook(const ScheduledStep& step, double seconds) {
  if (step.decoding == 0) rates_.StepTook(step.prompt_tokens, seconds);
}

FetchTracker::Time FetchTracker::DeadlineOf(int32_t tokens, std::chrono::duration<double> most,
                                            Time now) const {
  std::chrono::duration<double> wait = most;
  if (const auto compute = rates_.ComputeSeconds(tokens)) {
    wait = std::min(wait, std::max<std::chrono::duration<double>>(
                              least_, std::chrono::duration<double>(*compute)));
  }
  return now + std::chrono::duration_cast<Time::duration>(wait);
}

void FetchTracker::ProbeBegins(FetchId id, int32_t tokens, Time now) {
  open_[id] = {.begun = now,
               .deadline = DeadlineOf(tokens, deadline_, now),
               .probing = true,
               .tokens = tokens,
               .reports = 0,
               .good = false,
               .expected = {},
               .from = {}};
}

void FetchTracker::ProbeEnds(FetchId id) {
  overdue_.erase(id);
  const auto entry = open_.find(id);
  if (entry != open_.end() && entry->second.probing) open_.erase(entry);
}

void FetchTracker::FetchBegins(const BegunFetch& fetch, Time now) {
  const double thousands = std::max(1.0, fetch.tokens / 1024.0);
  open_[fetch.id] = {.begun = now,
                     .deadline = DeadlineOf(fetch.tokens, thousands * deadline_, now),
                     .probing = false,
                     .tokens = fetch.tokens,
                     .reports = 0,
                     .good = false,
                     .expected = fetch.from,
                     .from = {}};
}

std::optional<FetchTracker::Outcome> FetchTracker::Take(const RecordReport& report, Time now) {
  const FetchId id = report.id;
  if (const auto late = overdue_.find(id); late != overdue_.end() && --late->second == 0) {
    overdue_.erase(late);
  }
  const auto found = open_.find(id);
  if (found == open_.end()) return std::nullopt;
  Entry& entry = found->second;
  if (!entry.good) {
    entry.from = report.from;
    entry.good = true;
  }
  // All ranks have only what each has; the farthest tier that any of them had to ask counts.
  entry.from.resize(std::min(entry.from.size(), report.from.size()));
  for (size_t i = 0; i < entry.from.size(); ++i) {
    entry.from[i] = std::max(entry.from[i], report.from[i]);
  }
  if (++entry.reports < ranks_) return std::nullopt;
  Outcome outcome{.id = id, .from = std::move(entry.from), .late = false};
  const std::chrono::duration<double> took = now - entry.begun;
  rates_.FetchTook(entry.expected, static_cast<int32_t>(outcome.from.size()) * core::kPageTokens,
                   took.count());
  open_.erase(found);
  return outcome;
}

bool FetchTracker::TakeLoaded(FetchId fetch) {
  if (++loaded_[fetch] < ranks_) return false;
  loaded_.erase(fetch);
  return true;
}

std::vector<FetchTracker::Outcome> FetchTracker::TakeLate(Time now) {
  std::vector<Outcome> late;
  for (auto it = open_.begin(); it != open_.end();) {
    Entry& entry = it->second;
    if (entry.deadline > now) {
      ++it;
      continue;
    }
    late.push_back({.id = it->first, .from = {}, .late = true});
    overdue_[it->first] = entry.probing ? 1 : ranks_ - entry.reports;
    const std::chrono::duration<double> waited = now - entry.begun;
    rates_.FetchTook(entry.expected, entry.tokens, waited.count());
    it = open_.erase(it);
  }
  return late;
}

std::optional<FetchTracker::Time> FetchTracker::next_deadline() const {
  std::optional<Time> next;
  for (const auto& [id, entry] : open_)
    next = std::min(next.value_or(entry.deadline), entry.deadline);
  return next;
}

}  // namespace tandem::parallel
