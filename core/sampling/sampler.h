#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "core/model/sampling.h"
#include "core/sampling/logit_math.h"

namespace tandem::core {

/// How many candidates every rank contributes, from the parameters and the plan alone, never from
/// the data: 1 for greedy, top_k where set, otherwise `largest_vocab_shard`; never more than that.
int CandidatesPerRank(const SamplingParams& params, int largest_vocab_shard);

/// Bias, penalties and withheld end tokens on the rank's own rows, in place; tokens
/// outside of them are ignored. A logit that is not finite stays so. token_index: of the token in
/// its answer; history: every token of the sequence so far, those of the answer last; logits: [rows
/// of the shard].
void ApplyPenalties(const SamplingParams& params, uint64_t token_index,
                    std::span<const int32_t> history, int64_t first_row, std::span<float> logits);

/// Whether ApplyPenalties may change a logit; and whether it withholds the end tokens.
bool ChangesLogits(const SamplingParams& params);
bool WithholdsEndTokens(const SamplingParams& params, uint64_t token_index);

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
