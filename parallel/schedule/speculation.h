#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "parallel/engine/engine.h"
#include "parallel/schedule/drafter.h"
#include "parallel/schedule/scheduler.h"
#include "parallel/schedule/step_cost.h"

namespace tandem::parallel {

/// The drafts of all requests, and how much room each step has for them. The answers do not depend
/// on it: a guess is only ever taken where the model says the same. Thread safety: none.
class Speculation {
 public:
  /// A running request drafts from now on, if it does not already.
  void Begin(const RequestState& request) { drafters_.try_emplace(request.id, request.tokens); }

  /// A Scheduler's DraftSource.
  std::vector<int32_t> Guess(const RequestState& request, int32_t most, int32_t step_tokens);

  /// What a step gave a request; drops those that have finished.
  void Take(const RequestEvent& event);
  /// The request has ended otherwise.
  void End(RequestId id) { drafters_.erase(id); }

  /// Whether the next plan should wait for the outcome of this step because a sequence may draft
  /// then. (A plan made ahead leaves out a sequence whose next position depends on its drafts.)
  bool WorthWaiting(const ScheduledStep& step) const;

  /// How long a step took on this rank. Those with prompts are ignored.
  void StepTook(const ScheduledStep& step, double seconds);

 private:
  StepCost cost_;
  std::map<RequestId, Drafter>
      drafters_;  // of requests that run, or did before they were preempted
};

}  // namespace tandem::parallel
