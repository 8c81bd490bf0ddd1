#pragma once

#include <span>

#include "core/sampling/logit_math.h"

namespace tandem::core {

/// The sum of weights of a block of kSumRows vocabulary rows, or of its first ones, in the order of
/// log-probabilities: 16 sums of the rows with the same number mod 16, ascending, then folded i
/// with i + 8, 4, 2, 1.
double SumInLanes(std::span<const float> logits, const Softmax& softmax);

}  // namespace tandem::core
