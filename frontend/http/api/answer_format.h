#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "frontend/protocol/error_code.h"
#include "frontend/service/answer_events.h"
#include "parallel/engine/engine.h"

/// Answers as the gateway keeps them until they are told, and the form in which an API tells them.
namespace tandem::frontend {

using AnswerJson = nlohmann::ordered_json;

/// As AnswerDelta, with what it refers to.
struct ChoiceDelta {
  size_t choice = 0;
  std::string text;
  std::vector<parallel::TokenLogprobs> logprobs;
};

struct ChoiceDone {
  parallel::FinishReason reason = parallel::FinishReason::kStop;
  std::string text;
  std::optional<std::vector<parallel::TokenLogprobs>> logprobs = {};
  std::optional<std::string> stop_string = {};  // that ended it
};

/// As DoneContents, of all prompts of a request together.
struct AnswerDone {
  std::vector<ChoiceDone> choices = {};
  std::optional<std::string> conversation;
  std::optional<bool> durable;
  parallel::Usage usage;
};

/// What all answers begin with.
struct AnswerHead {
  std::string id = {};
  int64_t created = 0;  // seconds since 1970
  std::string model;
  std::string fingerprint = {};  // of the model and the program
};

/// One API's form of one answer. What Stream... give is sent as it is. Thread safety: one thread.
class AnswerFormat {
 public:
  virtual ~AnswerFormat() = default;

  /// A whole answer, of a request that does not stream.
  virtual AnswerJson Whole(const AnswerDone& done) = 0;

  /// `prompt_tokens`: of the request; how many of them came from the cache is not known yet.
  virtual std::string StreamBegin(int32_t prompt_tokens) = 0;
  virtual std::string StreamDelta(const ChoiceDelta& delta) = 0;
  virtual std::string StreamDone(const AnswerDone& done) = 0;
  /// The stream ends with an error.
  virtual std::string StreamError(ErrorCode code, std::string_view message) = 0;
};

/// An event of a stream: "data: JSON\n\n", with a line "event: NAME" before where there is a name.
std::string ServerSentEvent(const AnswerJson& data, std::string_view name = "");
/// A line for people between events, which programs do not look at.
std::string StreamComment(std::string_view text);
/// Between events: it says nothing, and keeps a connection alive.
inline constexpr std::string_view kStreamComment = ": the prompt is being read\n\n";

}  // namespace tandem::frontend
