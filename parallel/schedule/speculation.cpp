#include "parallel/schedule/speculation.h"

#include <algorithm>

namespace tandem::parallel {
namespace {

int32_t TokensOf(const StepPlan& plan) {
  int32_t tokens = 0;
  for (const SequenceWork& work : plan.sequences) tokens += work.token_count();
  return tokens;
}

}  // namespace

std::vector<int32_t> Speculation::Guess(const RequestState& request, int32_t most,
                                        int32_t step_tokens) {
  const auto drafter = drafters_.find(request.id);
  if (drafter == drafters_.end()) return {};
  return drafter->second.Guess(most, cost_.Price(step_tokens));
}

void Speculation::Take(const RequestEvent& event) {
  const auto drafter = drafters_.find(event.id);
  if (drafter == drafters_.end()) return;
  if (event.finish) {
    drafters_.erase(drafter);
  } else {
    drafter->second.Take(event.tokens, event.drafted, event.accepted);
  }
}

bool Speculation::WorthWaiting(const ScheduledStep& step) const {
  if (drafters_.empty()) return false;
  if (std::any_of(step.plan.sequences.begin(), step.plan.sequences.end(),
                  [](const SequenceWork& work) { return !work.drafts.empty(); })) {
    return true;
  }
  const double price = cost_.Price(TokensOf(step.plan));
  return std::any_of(drafters_.begin(), drafters_.end(),
                     [price](const auto& entry) { return entry.second.Hopeful(price); });
}

void Speculation::StepTook(const ScheduledStep& step, double seconds) {
  if (step.prompt_tokens == 0) cost_.Add(TokensOf(step.plan), seconds);
}

}  // namespace tandem::parallel
