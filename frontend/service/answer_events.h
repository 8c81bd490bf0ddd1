#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "frontend/chat/chat_prompt.h"
#include "frontend/protocol/error_code.h"
#include "parallel/engine/engine.h"

/// What the service tells a front end about a request, in no protocol's words.
namespace tandem::frontend {

/// What became of something that was sent to a client.
enum class Delivery : uint8_t {
  kSent,        // on its way, or waiting within the client's budget
  kOverBudget,  // dropped: the client does not read
  kGone,        // dropped: the client is not connected
};

/// New text of an answer.
struct AnswerDelta {
  size_t choice = 0;      // which of the request's answers
  int64_t seq = 0;        // counts the deltas of the request, from 0, over all its answers
  std::string_view text;  // whole UTF-8 characters; perhaps none, where there are log-probabilities
  /// Of the tokens that came since the last delta of this choice; empty where they are not wanted.
  std::span<const parallel::TokenLogprobs> logprobs;
};

/// A request's outcome.
struct DoneContents {
  struct Choice {
    parallel::FinishReason reason = parallel::FinishReason::kStop;
    std::string_view text;  // all of it
    /// Of all tokens, those of an echoed prompt first; none: they were not asked for.
    std::optional<std::span<const parallel::TokenLogprobs>> logprobs;
    std::optional<std::string_view> stop_string = {};  // where one ended it
  };
  std::vector<Choice> choices;  // as many as the request asked for
  std::optional<std::string> conversation;
  std::optional<bool> durable;   // the conversation's turn; where there is a state directory
  std::optional<uint64_t> seed;  // where the answer was sampled
  DroppedInput dropped;
  parallel::Usage usage;  // of all choices together
};

/// What becomes of one request. Views that are handed over are valid during the call.
///
/// Thread safety: all calls come from the service's thread. They must not block, nor call back the
/// functions of the service that belong to its thread.
class AnswerEvents {
 public:
  virtual ~AnswerEvents() = default;

  /// The engine has taken the request, whose prompt has so many tokens. A client that asks for its
  /// answer again hears it again.
  virtual Delivery OnAccepted(int32_t prompt_tokens) = 0;
  /// kOverBudget ends all requests of the client with `cancelled`; kGone ends them without a word
  /// (those of a client that may come back: unless it does in time).
  virtual Delivery OnDelta(const AnswerDelta& delta) = 0;
  /// Why nothing comes for a while; the answer goes on where it was. `number`: ascends; the same
  /// for all requests that hear of the same thing.
  virtual void OnNotice(uint64_t /*number*/, std::string_view /*text*/) {}
  /// The last word, unless it gives kOverBudget: then OnFailed is.
  virtual Delivery OnDone(const DoneContents& done) = 0;
  /// The last word: the request was refused, or failed. `retry_after`: in how many seconds it is
  /// worth trying again.
  virtual void OnFailed(ErrorCode code, std::string_view message,
                        std::optional<double> retry_after) = 0;

  /// Until when the client may ask for the same answer again by the request's id; so long the
  /// answer is kept, within limits.
  enum class Repeats : uint8_t {
    kNever,
    kWhileConnected,  // Gone forgets the answer
    kAfterReturn,     // Gone lets the request go on for a while, for the client to come back
  };
  virtual Repeats repeats() const { return Repeats::kNever; }
  /// Whether the client has read nearly all that was sent to it. One that asked for an answer again
  /// gets more of it then.
  virtual bool ReadsOn() const { return true; }
};

}  // namespace tandem::frontend
