#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace tandem::core {

/// How a token is chosen. Checked by whoever reads it from outside: finite numbers, temperature >=
/// 0, top_k >= 0, top_p in (0, 1], min_p in [0, 1], repetition_penalty > 0.
///
/// The filters act in this order, that of Hugging Face's generate; llama.cpp differs in applying
/// the temperature last:
///   1. logit_bias is added; 2. repetition_penalty divides positive logits and multiplies others,
///   once for each token of prompt and answer, however often it stands there;
///   3. temperature divides logits, or is 0, and then the best token is taken and nothing below
///   matters; 4. top_k keeps the k best; 5. of the softmax over those, top_p keeps the shortest run
///   of best tokens whose probabilities reach top_p (at least one); 6. min_p keeps tokens whose
///   probability is at least min_p times that of the best; 7. one of the rest is drawn.
/// "Best" is by (logit descending, token ascending).
struct SamplingParams {
  float temperature = 0.0F;  // 0 = greedy
  int32_t top_k = 0;         // 0 = all
  float top_p = 1.0F;        // 1 = all
  float min_p = 0.0F;        // 0 = all
  float repetition_penalty = 1.0F;
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

/// Bias and repetition penalty on the rank's own rows, in place; tokens outside of them are
/// ignored. logits: [rows of the shard]; history: every token of the sequence so far (duplicates
/// are harmless).
void ApplyPenalties(const SamplingParams& params, std::span<const int32_t> history,
                    int64_t first_row, std::span<float> logits);

/// The best `out.size()` of the shard by (logit descending, token ascending), in no particular
/// order, then padding where the shard is smaller. A logit that is not finite makes out[0] the
/// failed candidate (numerics.md, rule 3).
void SelectCandidates(std::span<const float> logits, int64_t first_row, std::span<Candidate> out);

/// Chooses a token from all ranks' candidates (any order, padding allowed). The same on every rank
/// and for every cut of the vocabulary: randomness is Philox of (seed, sample_number, token_index),
/// ties break to the lowest id, sums go by fixed blocks of vocabulary rows.
///
/// In detail: the weight of a token is w = exp((logit - best logit) / temperature) in float32, sums
/// are double. A sum over tokens adds each block of 1024 vocabulary rows from its lowest row up,
/// and then the blocks in order. top_p adds weights from the best down until they reach top_p times
/// the sum of all; min_p compares w itself, the best token's being 1. A number u in [0, 1) of 53
/// bits times the sum over what is left falls into the range of one token, lowest ids first.
///
/// Nothing if any rank contributed the failed candidate, or no rank had a row.
std::optional<int32_t> SampleToken(const SamplingParams& params, uint64_t token_index,
                                   std::vector<Candidate> candidates);

}  // namespace tandem::core
