#include "parallel/schedule/restore_rates.h"

#include <algorithm>

namespace tandem::parallel {
namespace {

// Shorter prompts tell of fixed costs, not of tokens.
constexpr int32_t kFewestTokens = 16;
constexpr double kNewest = 0.25;  // the weight of the last one
constexpr double kHopeKept = 0.9;

void Follow(std::optional<double>& value, double seen) {
  value = value ? *value + kNewest * (seen - *value) : seen;
}

}  // namespace

void RestoreRates::StepTook(int32_t prompt_tokens, double seconds) {
  if (prompt_tokens < kFewestTokens) return;
  Follow(compute_, seconds / prompt_tokens);
}

void RestoreRates::Rate::Took(int32_t tokens, double seconds) {
  Follow(fetch, seconds / tokens);
  // Follows upwards too, slowly: what was shortest once may never come again.
  least = least ? std::min(seconds, *least + kNewest / 4 * (seconds - *least)) : seconds;
  hope = 1;
}

bool RestoreRates::Rate::Worth(int32_t tokens, double compute_seconds) const {
  return !fetch || std::max(*fetch * tokens, *least) * hope <= compute_seconds;
}

void RestoreRates::FetchTook(std::optional<From> from, int32_t tokens, double seconds) {
  if (tokens <= 0) return;
  if (from) return rates_[static_cast<size_t>(*from)].Took(tokens, seconds);
  for (Rate& rate : rates_) {
    if (rate.fetch) rate.Took(tokens, seconds);
  }
}

std::optional<double> RestoreRates::ComputeSeconds(int32_t tokens) const {
  if (!compute_) return std::nullopt;
  return *compute_ * tokens;
}

bool RestoreRates::Worth(std::optional<From> from, int32_t tokens) {
  const std::optional<double> compute = ComputeSeconds(tokens);
  if (!compute) return true;
  if (from) {
    Rate& rate = rates_[static_cast<size_t>(*from)];
    if (rate.Worth(tokens, *compute)) return true;
    rate.hope *= kHopeKept;
    return false;
  }
  const bool any = std::any_of(rates_.begin(), rates_.end(),
                               [&](const Rate& rate) { return rate.Worth(tokens, *compute); });
  if (any) return true;
  for (Rate& rate : rates_) rate.hope *= kHopeKept;
  return false;
}

}  // namespace tandem::parallel
