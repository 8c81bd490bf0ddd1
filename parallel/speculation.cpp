#include "parallel/speculation.h"

#include <algorithm>

namespace tandem::parallel {

std::vector<int32_t> Speculation::Guess(RequestId id, int32_t most, int32_t step_tokens) {
  const auto drafter = drafters_.find(id);
  if (drafter == drafters_.end()) return {};
  return drafter->second.Guess(most, cost_.Price(step_tokens));
}

void Speculation::Take(RequestId id, std::span<const int32_t> tokens) {
  const auto drafter = drafters_.find(id);
  if (drafter != drafters_.end()) drafter->second.Take(tokens);
}

bool Speculation::WaitForTokens(int32_t step_tokens) const {
  const double price = cost_.Price(step_tokens);
  return std::any_of(drafters_.begin(), drafters_.end(), [price](const auto& entry) {
    return entry.second.under_way() || entry.second.Hopeful(price);
  });
}

void Speculation::StepTook(const StepPlan& plan, double seconds) {
  int32_t tokens = 0;
  for (const SequenceWork& work : plan.sequences) {
    if (!work.tokens.empty()) return;
    tokens += work.token_count();
  }
  cost_.Add(tokens, seconds);
}

}  // namespace tandem::parallel
