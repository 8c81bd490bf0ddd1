#include "parallel/restore_rates.h"

#include <algorithm>

namespace tandem::parallel {
namespace {

// Shorter prompts tell of fixed costs, not of tokens.
constexpr int32_t kTellingTokens = 16;
constexpr double kNewest = 0.25;  // the weight of the last one
constexpr double kHopeKept = 0.9;

void Follow(std::optional<double>& value, double seen) {
  value = value ? *value + kNewest * (seen - *value) : seen;
}

}  // namespace

void RestoreRates::StepTook(int32_t prompt_tokens, double seconds) {
  if (prompt_tokens < kTellingTokens) return;
  Follow(compute_, seconds / prompt_tokens);
}

void RestoreRates::FetchTook(int32_t tokens, double seconds) {
  if (tokens <= 0) return;
  Follow(fetch_, seconds / tokens);
  // Follows upwards too, slowly: what was shortest once may never come again.
  least_ = least_ ? std::min(seconds, *least_ + kNewest / 4 * (seconds - *least_)) : seconds;
  hope_ = 1;
}

std::optional<double> RestoreRates::ComputeSeconds(int32_t tokens) const {
  if (!compute_) return std::nullopt;
  return *compute_ * tokens;
}

bool RestoreRates::Worth(int32_t tokens) {
  if (!compute_ || !fetch_) return true;
  const double fetching = std::max(*fetch_ * tokens, *least_) * hope_;
  if (fetching <= *compute_ * tokens) return true;
  hope_ *= kHopeKept;
  return false;
}

}  // namespace tandem::parallel
