#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace tandem::core {

/// How a token is chosen. Checked by whoever reads it from outside: finite numbers, temperature >=
/// 0, top_k >= 0, top_p in (0, 1], min_p in [0, 1], repetition_penalty > 0, min_tokens >= 0.
///
/// The filters act in this order, that of Hugging Face's generate; llama.cpp differs in applying
/// the temperature last:
///   1. logit_bias is added; 2. repetition_penalty divides positive logits and multiplies others,
///   once for each token of prompt and answer, however often it stands there; from the logit of a
///   token that the answer has n > 0 times so far, presence_penalty + n * frequency_penalty is
///   subtracted; the first min_tokens tokens of an answer are none of end_tokens, as if those had
///   logit -inf;
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
  float presence_penalty = 0.0F;   // of a token that the answer has
  float frequency_penalty = 0.0F;  // for each time that it has it
  uint64_t seed = 0;
  uint32_t sample_number = 0;                         // which of several samples of one prompt
  std::vector<std::pair<int32_t, float>> logit_bias;  // (token, added)
  int32_t min_tokens = 0;
  std::vector<int32_t> end_tokens = {};  // empty without min_tokens
};

/// A token that is sampled from one row of a step's logits.
struct SampleRow {
  int64_t row = 0;  // of the logits of the step
  const SamplingParams* params = nullptr;
  std::span<const int32_t> history;  // all tokens before it, for penalties
  uint64_t token_index = 0;          // of the token in its answer
  int32_t candidates = 1;            // that each rank contributes, as CandidatesPerRank says
  bool scored = false;               // its logits are the model's again when it is sampled
};

/// What is sampled: a token, or nothing if a logit of the row was not finite on some rank.
using SampledToken = std::optional<int32_t>;

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

/// A token whose log-probability in one row of a step's logits is asked for.
struct ScoreRow {
  int64_t row = 0;            // of the logits of the step
  int32_t token = 0;          // of the vocabulary
  int32_t top = 0;            // so many likeliest ones are asked for, too
  int64_t largest_shard = 0;  // vocabulary rows; sets the size of gathers
};

/// What is found: nothing if a logit of the row was not finite on some rank.
using TokenScore = std::optional<TokenLogprobs>;

}  // namespace tandem::core
