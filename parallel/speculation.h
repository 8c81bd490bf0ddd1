#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "parallel/drafter.h"
#include "parallel/engine.h"
#include "parallel/step_cost.h"
#include "parallel/step_plan.h"

namespace tandem::parallel {

/// Which running requests draft, and how much each step has room for. The answers do not depend on
/// it: a guess is only ever taken where the model says the same. Thread safety: none.
class Speculation {
 public:
  /// A request drafts from now on. history: its prompt, and what of its answer is known.
  void Begin(RequestId id, std::span<const int32_t> history) { drafters_.emplace(id, history); }
  /// Ids that do not draft are ignored, here and below.
  void End(RequestId id) { drafters_.erase(id); }

  /// Guesses for a step that carries `step_tokens` tokens without them; every token of the answer
  /// so far must have been taken.
  std::vector<int32_t> Guess(RequestId id, int32_t most, int32_t step_tokens);

  /// What a step gave the request.
  void Take(RequestId id, std::span<const int32_t> tokens);

  /// Whether the next plan, of about `step_tokens` tokens, should wait for what the step under way
  /// gives, since somebody may draft then. Where drafts are under way it has to.
  bool WaitForTokens(int32_t step_tokens) const;

  /// How long a step took. Those with prompts are ignored.
  void StepTook(const StepPlan& plan, double seconds);

 private:
  StepCost cost_;
  std::map<RequestId, Drafter> drafters_;
};

}  // namespace tandem::parallel
