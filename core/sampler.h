#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace tandem::core {

/// How a token is chosen. Checked by whoever reads it from outside.
struct SamplingParams {
  float temperature = 0.0F;  // 0 = greedy
  int32_t top_k = 0;         // 0 = all
  float top_p = 1.0F;
  float min_p = 0.0F;
  float repetition_penalty =
      1.0F;  // over prompt and answer; positive logits divided, negative multiplied
  uint64_t seed = 0;
  uint32_t sample_number = 0;                         // which of several samples of one prompt
  std::vector<std::pair<int32_t, float>> logit_bias;  // (token, added)
};

inline constexpr int32_t kPaddingToken =
    -1;  // candidate of a shard with fewer rows than asked for; never chosen
inline constexpr int32_t kFailedToken =
    -2;  // "a logit of this shard is not finite": the request fails on all ranks

/// A token that may be chosen.
struct Candidate {
  float logit = 0.0F;
  int32_t token = kPaddingToken;
};

/// How many candidates every rank contributes, from the parameters and the plan alone, never from
/// the data: 1 for greedy, top_k where set, otherwise `largest_vocab_shard`; never more than that.
int CandidatesPerRank(const SamplingParams& params, int largest_vocab_shard);

/// Bias and repetition penalty on the rank's own rows, in place. logits: [rows of the shard];
/// history: every token of the sequence so far (duplicates are harmless).
void ApplyPenalties(const SamplingParams& params, std::span<const int32_t> history,
                    int64_t first_row, std::span<float> logits);

/// The best `out.size()` of the shard by (logit descending, token ascending), padded where the
/// shard is smaller. A logit that is not finite makes out[0] the failed candidate (numerics.md,
/// rule 3).
void SelectCandidates(std::span<const float> logits, int64_t first_row, std::span<Candidate> out);

/// Chooses a token from all ranks' candidates (any order, padding allowed). The same on every rank:
/// randomness is Philox of (seed, sample_number, token_index), ties break to the lowest id, sums go
/// by fixed blocks of vocabulary rows. Nothing if any rank contributed the failed candidate, or no
/// rank had a row.
std::optional<int32_t> SampleToken(const SamplingParams& params, uint64_t token_index,
                                   std::vector<Candidate> candidates);

}  // namespace tandem::core
