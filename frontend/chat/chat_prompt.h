#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "frontend/chat/text_model.h"

namespace tandem::frontend {

/// What happens to a chat that is longer than the context.
struct ContextPolicy {
  enum class Kind : uint8_t {
    kStop,    // it is refused, or its answer ends where the context does
    kShift,   // the oldest messages are left out, whole, but not the system message
    kWindow,  // the model reads the newest tokens only
  };
  Kind kind = Kind::kStop;
  int32_t window = 0;  // tokens read at most; of kWindow
  bool operator==(const ContextPolicy&) const = default;
};
/// Reads "stop", "shift" or "window:4096". kInvalidArgument otherwise, naming what was found.
absl::StatusOr<ContextPolicy> ParseContextPolicy(std::string_view text);

/// Tokens that a model has read and written, and the rendered chat that they stand for.
struct ChatHistory {
  std::vector<TextSegment> segments;
  std::vector<int32_t> tokens;  // empty: nothing yet
  std::string attention =
      {};  // with which it was computed (core/model/attention_text.h); empty: dense
};

/// What a context policy left out.
struct DroppedInput {
  int64_t messages = 0;
  int64_t tokens = 0;
  bool any() const { return messages > 0 || tokens > 0; }
};

/// A chat and how it is to be turned into a model's input.
struct ChatInput {
  std::span<const ChatMessage> messages;  // all of them
  ContextPolicy policy;
  std::optional<int64_t> max_tokens;  // of the answer, where it is known
  RenderOptions render = {};
  /// Set: a conversation whose turns are seen one by one, with what is known of it.
  const ChatHistory* history = nullptr;
  size_t first = 0;  // messages before it were left out before, but for the system message
  int64_t dropped_tokens = 0;  // those of them
};

/// A model's input for a chat.
struct ChatPrompt {
  ChatHistory whole;           // before a window was cut out of it
  size_t window_begin = 0;     // the model reads whole.tokens from here on
  size_t first = 0;            // of ChatInput::messages, the first after the system message
  int64_t dropped_tokens = 0;  // of the messages left out, by content
  DroppedInput dropped;        // all that the model does not read
  std::span<const int32_t> tokens() const { return std::span(whole.tokens).subspan(window_begin); }
};

/// Renders and encodes a chat under its context policy.
///
/// If the rendered chat begins with the history's text, the history's tokens stay and only the rest
/// is encoded, so that computed pages are found again. Otherwise all of it is encoded anew.
///
/// Policies leave room for the answer: max_tokens, at most a quarter of the context. `shift` cuts
/// to half of the context, before a user's message. Without a history it finds the cuts of earlier
/// turns again, so that the beginning stays the same from turn to turn. `window` cuts to its size,
/// or further, to leave the room. The result may still be longer than the context; the engine then
/// refuses it. Errors: those of the model; under `stop`, of CheckTextFits.
absl::StatusOr<ChatPrompt> MakeChatPrompt(const TextModel& model, const ChatInput& input);

/// The history after an answer: `text` is what the user saw of it, of which `tokens` stand for the
/// first `token_bytes` bytes. Text without certain tokens is left to be encoded with the next turn.
ChatHistory HistoryAfterAnswer(ChatHistory prompt, std::string_view text,
                               std::span<const int32_t> tokens, size_t token_bytes);

}  // namespace tandem::frontend
