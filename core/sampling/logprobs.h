#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace tandem::core {

/// A token and how likely the model itself finds it: the logarithm of the softmax of its logits,
/// before bias, penalties, temperature and filters.
struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0;
  bool operator==(const TokenLogprob&) const = default;
};

/// One token of a prompt or answer, and the likeliest ones in its place.
struct TokenLogprobs {
  TokenLogprob chosen;
  std::vector<TokenLogprob> top;  // best first; ties by the lowest id
  bool operator==(const TokenLogprobs&) const = default;
};

/// Log-probabilities of `chosen` and of the `top` best tokens (all, if the vocabulary has fewer)
/// after a row of logits. The same bits on every processor.
///
/// In detail: logprob = (x - max) - log(sum of exp(x - max)), all in double but exp, which is
/// float32 of a float32 difference, and rounded to float32 once (the lowest one where it is below
/// that). A sum over the vocabulary goes by blocks of 1024 rows: within each, 16 sums of the rows
/// with the same number mod 16, ascending, then folded i with i + 8, 4, 2, 1; then the blocks in
/// order (numerics.md, rules 5 and 7).
///
/// logits: [vocab]; chosen: in [0, vocab). Nothing if a logit is not finite.
std::optional<TokenLogprobs> LogprobsOf(std::span<const float> logits, int32_t chosen, int32_t top);

}  // namespace tandem::core
