#include "parallel/plan/step_plan.h"

#include <bit>

namespace tandem::parallel {
namespace {

// Parameters are compared by their bits, since ranks must agree on those.
bool SameBits(float a, float b) { return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b); }

bool SameSampling(const core::SamplingParams& a, const core::SamplingParams& b) {
  if (a.logit_bias.size() != b.logit_bias.size()) return false;
  for (size_t i = 0; i < a.logit_bias.size(); ++i) {
    if (a.logit_bias[i].first != b.logit_bias[i].first ||
        !SameBits(a.logit_bias[i].second, b.logit_bias[i].second)) {
      return false;
    }
  }
  return SameBits(a.temperature, b.temperature) && a.top_k == b.top_k &&
         SameBits(a.top_p, b.top_p) && SameBits(a.min_p, b.min_p) &&
         SameBits(a.repetition_penalty, b.repetition_penalty) && a.seed == b.seed &&
         a.sample_number == b.sample_number && a.min_tokens == b.min_tokens &&
         a.end_tokens == b.end_tokens;
}

}  // namespace

bool OpenedSlot::operator==(const OpenedSlot& other) const {
  return slot == other.slot && SameSampling(sampling, other.sampling) &&
         candidates_per_rank == other.candidates_per_rank &&
         first_token_index == other.first_token_index && history == other.history;
}

}  // namespace tandem::parallel
