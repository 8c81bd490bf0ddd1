#include "parallel/schedule/prompt_budget.h"

#include <algorithm>

namespace tandem::parallel {
namespace {

// A step with fewer prompt tokens, the end of a prompt, says little about each of them.
constexpr int32_t kTellingTokens = PromptBudget::kLeast;
// Until so many steps were seen, the number of prompt tokens at most doubles from step to step.
constexpr size_t kEnoughSteps = 3;

}  // namespace

void PromptBudget::Recent::Add(double value) {
  values_[next_] = value;
  next_ = (next_ + 1) % values_.size();
  count_ = std::min(count_ + 1, values_.size());
}

double PromptBudget::Recent::Median() const {
  std::array<double, 5> sorted = values_;
  const auto middle = sorted.begin() + static_cast<int64_t>(count_ / 2);
  std::nth_element(sorted.begin(), middle, sorted.begin() + static_cast<int64_t>(count_));
  return *middle;
}

void PromptBudget::Add(int32_t decoding, int32_t prompt_tokens, double seconds) {
  if (decoding == 0) return;
  if (prompt_tokens == 0) {
    alone_[decoding].Add(seconds);
    return;
  }
  last_ = prompt_tokens;
  const double alone = StepAlone(decoding);
  if (alone == 0 || prompt_tokens < kTellingTokens) return;
  each_.Add(std::max(seconds - alone, 0.0) / prompt_tokens);
}

double PromptBudget::StepAlone(int32_t decoding) const {
  if (alone_.empty()) return 0;
  // Of unknown numbers, what is known of others, rather too short: a step of more sequences takes
  // longer, but one of fewer takes at least their part of it.
  const auto above = alone_.lower_bound(decoding);
  if (above != alone_.end() && above->first == decoding) return above->second.Median();
  if (above != alone_.begin()) return std::prev(above)->second.Median();
  return above->second.Median() * decoding / above->first;
}

int32_t PromptBudget::Tokens(int32_t decoding, int32_t prompts) const {
  const int32_t least = std::min(kLeast, most_);
  const double alone = StepAlone(decoding);
  if (alone == 0 || each_.empty()) return std::min(kFirst, most_);
  const double each = each_.Median();
  const double fit = (kMostStretch - 1) * alone * std::max(prompts, 1);
  int32_t tokens = fit >= each * most_ ? most_ : static_cast<int32_t>(fit / each);
  if (each_.count() < kEnoughSteps) tokens = std::min(tokens, 2 * last_);
  return std::clamp(tokens, least, most_);
}

}  // namespace tandem::parallel
