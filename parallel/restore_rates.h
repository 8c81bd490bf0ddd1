#pragma once

#include <cstdint>
#include <optional>

namespace tandem::parallel {

/// Whether restoring is faster than computing, learnt from how long both took. Thread safety: none.
class RestoreRates {
 public:
  /// A step that had prompt tokens alone took so long.
  void StepTook(int32_t prompt_tokens, double seconds);
  /// So long after it was looked for, so many tokens could be loaded.
  void FetchTook(int32_t tokens, double seconds);

  /// Nothing as long as no prompt was computed.
  std::optional<double> ComputeSeconds(int32_t tokens) const;
  /// Whether so many tokens are better restored. Where nothing is known it is tried; and after some
  /// refusals it is tried again, since a tier may have been slow for a while only.
  bool Worth(int32_t tokens);

 private:
  std::optional<double> compute_;  // seconds a token
  std::optional<double> fetch_;    // seconds a token
  std::optional<double> least_;    // seconds that the shortest fetch took: what a small one costs
  double hope_ = 1;                // grows less with each refusal
};

}  // namespace tandem::parallel
