#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "kv_store/records/tier.h"

namespace tandem::parallel {

/// Whether restoring is faster than computing, learnt from how long both took. Places differ, so
/// each has rates of its own. Thread safety: none.
class RestoreRates {
 public:
  using From = kv_store::TierKind;

  /// A step that had prompt tokens alone took so long.
  void StepTook(int32_t prompt_tokens, double seconds);
  /// `tokens` could be loaded `seconds` after they were looked for. from: where they were expected
  /// to be, even if they were elsewhere; nothing: that was not known, so it counts for all places
  /// that have been measured.
  void FetchTook(std::optional<From> from, int32_t tokens, double seconds);

  /// Nothing as long as no prompt was computed.
  std::optional<double> ComputeSeconds(int32_t tokens) const;
  /// Whether restoring `tokens` from there is faster than computing them; from nothing: from any
  /// place. True where nothing is known. After some refusals it is true again, since a tier may
  /// have been slow for a while only.
  bool Worth(std::optional<From> from, int32_t tokens);

 private:
  struct Rate {
    std::optional<double> fetch;  // seconds a token
    std::optional<double> least;  // seconds that the shortest fetch took: what a small one costs
    double hope = 1;              // grows less with each refusal

    void Took(int32_t tokens, double seconds);
    bool Worth(int32_t tokens, double compute_seconds) const;
  };

  std::optional<double> compute_;  // seconds a token
  std::array<Rate, 3> rates_;      // by From
};

}  // namespace tandem::parallel
