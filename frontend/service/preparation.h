#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "frontend/chat/chat_prompt.h"
#include "frontend/protocol/request.h"
#include "parallel/engine/engine.h"

/// From a request as it was read to work that the engine has taken: what takes long, or waits.
namespace tandem::frontend {

/// A conversation as it was when its turn began, and what is new.
struct TurnInput {
  std::vector<ChatMessage> messages;  // all of them, the new ones too
  size_t new_from = 0;                // the first new one
  ChatHistory history;
  size_t first = 0;
  int64_t dropped_tokens = 0;
};

/// A request, with all that its preparation needs, so that it may happen on any thread.
struct Preparation {
  uint64_t key = 0;    // the service's number of the request
  std::string client;  // connection identity
  GenerateRequest request;
  std::optional<TurnInput> turn;  // of a conversation; then request.input is empty
  ContextPolicy policy;
  bool durable = false;
  int64_t most_logprobs = 0;  // of all answers together

  int64_t bytes() const;
};

/// What came of it.
struct Prepared {
  absl::Status status;                    // of a refused request all else is empty
  ChatPrompt chat;                        // of a chat; the tokens only of a conversation's
  std::vector<ChatMessage> new_messages;  // of a conversation
  std::vector<int32_t> prompt_tokens;     // where an answer is echoed or belongs to a conversation
  int32_t prompt_length = 0;              // tokens
  std::vector<std::string> stop;
  int32_t min_tokens = 0;        // within which no stop string counts
  std::optional<uint64_t> seed;  // where the answer is sampled
  std::string echo;              // the prompt's text, where it is asked for
  bool wants_logprobs = false;
  bool prompt_logprobs = false;
  std::vector<parallel::RequestId> engine_ids;  // [choices]
};

/// The work for the engine, which Submit takes; the rest goes to `prepared`. Errors: those of the
/// model and of MakeEngineRequest; kInvalidArgument for more log-probabilities than allowed.
absl::StatusOr<parallel::EngineRequest> Prepare(Preparation preparation, const TextModel& model,
                                                Prepared& prepared);

/// Gives the engine one request for each of `choices` answers, all or none of them. `sink` makes
/// the sink of one. May wait for the engine.
absl::StatusOr<std::vector<parallel::RequestId>> SubmitAll(
    parallel::Engine& engine, const parallel::EngineRequest& work, size_t choices,
    const std::function<parallel::EngineSink(size_t choice)>& sink);

}  // namespace tandem::frontend
