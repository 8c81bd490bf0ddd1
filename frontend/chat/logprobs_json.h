#pragma once

#include <nlohmann/json.hpp>
#include <span>

#include "frontend/chat/text_model.h"
#include "parallel/engine/engine.h"

namespace tandem::frontend {

/// Log-probabilities as clients get them, a list with an object a token:
/// {"token":504,"text":"The","logprob":-0.25,"top":[{"token":...,"text":...,"logprob":...}]}, and
/// "bytes" where a token is no whole text. A log-probability that is no number (that of a prompt's
/// first token) is null.
nlohmann::ordered_json LogprobsJson(const TextModel& model,
                                    std::span<const parallel::TokenLogprobs> tokens);

}  // namespace tandem::frontend
