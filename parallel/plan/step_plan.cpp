#include "parallel/plan/step_plan.h"

#include <algorithm>

#include "core/base/wire.h"
#include "core/sampling/sampling_fields.h"

namespace tandem::parallel {
namespace {

// Parameters are compared by the bits that travel, since ranks must agree on those.
bool SameSampling(const core::SamplingParams& a, const core::SamplingParams& b) {
  core::WireWriter of_a, of_b;
  of_a(a);
  of_b(b);
  return std::ranges::equal(of_a.bytes(), of_b.bytes());
}

}  // namespace

bool OpenedSlot::operator==(const OpenedSlot& other) const {
  return slot == other.slot && SameSampling(sampling, other.sampling) &&
         candidates_per_rank == other.candidates_per_rank &&
         first_token_index == other.first_token_index && history == other.history;
}

}  // namespace tandem::parallel
