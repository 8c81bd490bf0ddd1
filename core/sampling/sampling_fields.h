#pragma once

#include "core/base/wire.h"
#include "core/sampling/logprobs.h"
#include "core/sampling/sampler.h"

namespace tandem::core {

/// How these travel within messages. Floats keep their bits.
template <typename Archive>
void Fields(Archive& archive, SamplingParams& sampling) {
  constexpr size_t kMostBiases = 1 << 20;
  constexpr size_t kMostEndTokens = 1 << 24;
  archive(sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p,
          sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty,
          sampling.seed, sampling.sample_number,
          AtMost(sampling.logit_bias, kMostBiases, "logit biases"), sampling.min_tokens,
          AtMost(sampling.end_tokens, kMostEndTokens, "end tokens"));
}

template <typename Archive>
void Fields(Archive& archive, TokenLogprob& logprob) {
  archive(logprob.token, logprob.logprob);
}

template <typename Archive>
void Fields(Archive& archive, TokenLogprobs& logprobs) {
  constexpr size_t kMostTop = 1 << 20;
  archive(logprobs.chosen, AtMost(logprobs.top, kMostTop, "log-probabilities"));
}

}  // namespace tandem::core
