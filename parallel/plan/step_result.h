#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "core/model/sampling.h"
#include "parallel/plan/digest.h"

namespace tandem::parallel {

/// A sum or logit that was not finite or out of range (numerics.md, rule 3).
struct NumericFailure {
  int64_t position = 0;
  bool in_logits = false;  // else in the layers
};

/// What a step gave for one sequence.
struct SequenceResult {
  /// Sampled, if the plan asked: one, and one more for each draft that was right, up to a failure.
  std::vector<int32_t> tokens;
  std::optional<NumericFailure> failure;  // the first one; the request fails behind these tokens
};

struct StepResult {
  std::vector<SequenceResult> sequences;  // as in the plan
  std::vector<float> logits;              // rank 0 only: [rows of gathering sequences, vocab]
  std::vector<core::TokenScore> scores;   // [rows of scored sequences]
  Digest digest{};                        // of all plans and results so far
  /// Of this rank, in reductions, from its first step on; ranks differ in it.
  uint64_t reduce_nanoseconds = 0;
};

}  // namespace tandem::parallel
