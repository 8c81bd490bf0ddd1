#pragma once

#include <cstdint>
#include <functional>

#include "core/base/status.h"
#include "parallel/engine/engine.h"

namespace tandem::launcher {

/// What is measured at once: a prefill, or sequences that are decoded together.
struct BenchScenario {
  int32_t sequences = 0;  // decoded together; 0: the prefill of one prompt
  int32_t prompt = 0;     // tokens of each sequence
  int32_t generated = 0;  // tokens of each while all of them are decoded together

  bool prefill() const { return sequences == 0; }
  /// Sequences that must fit into the engine at once.
  int32_t slots() const { return prefill() ? 1 : sequences; }
  /// Tokens that each asks the engine for: while decoding more than are measured, since the prompts
  /// are through one after the other, `prefill_chunk` tokens a step.
  int32_t asked(int32_t prefill_chunk) const;
};

/// How far a scenario is, in [0, 1]; called by the measuring thread, often.
using ScenarioProgress = std::function<void(double fraction)>;

/// Runs the scenario on an idle engine with room for it and returns tokens a second: of the prompt
/// until the first token is sampled, or of all sequences together from when the last one has begun
/// until the first one ends. Prompts are random tokens, the same every time; sampling is greedy.
/// Errors are the engine's; kFailedPrecondition if the sequences never were decoded together, on a
/// machine that is too busy.
absl::StatusOr<double> MeasureScenario(parallel::Engine& engine, const BenchScenario& scenario,
                                       int32_t prefill_chunk, int32_t vocab,
                                       const ScenarioProgress& progress);

}  // namespace tandem::launcher
