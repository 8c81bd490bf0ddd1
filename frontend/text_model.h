#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/status.h"

namespace tandem::frontend {

/// One message of a chat.
struct ChatMessage {
  std::string role;  // "system", "user", "assistant" or "tool"
  std::string content;
  bool operator==(const ChatMessage&) const = default;
};

/// Text of a growing answer, token by token. Thread safety: one thread.
class TextStream {
 public:
  virtual ~TextStream() = default;
  /// The text that became certain with this token: whole UTF-8 characters, possibly none.
  virtual std::string Append(int32_t token) = 0;
  /// What is left at the end: bytes of an unfinished character come out as U+FFFD.
  virtual std::string Finish() = 0;
};

/// The text side of a model: its tokenizer, its chat template and the numbers a request is checked
/// against. Immutable; safe to use from any thread.
class TextModel {
 public:
  virtual ~TextModel() = default;

  virtual const std::string& name() const = 0;
  virtual int vocab() const = 0;
  virtual int context() const = 0;  // tokens of prompt and answer together

  /// The model's input for a chat, start token included, ending where the assistant's answer
  /// begins. kInvalidArgument if the template refuses the messages.
  virtual absl::StatusOr<std::vector<int32_t>> EncodeChat(
      std::span<const ChatMessage> messages) const = 0;
  /// Raw text: no template, no control tokens; the start token where the model's file says so.
  virtual absl::StatusOr<std::vector<int32_t>> EncodeText(std::string_view text) const = 0;

  virtual std::unique_ptr<TextStream> NewStream() const = 0;
  /// Tokens that end an answer.
  virtual std::span<const int32_t> end_tokens() const = 0;
  /// Strings that end a chat's answer, because the template has no token for it.
  virtual std::span<const std::string> chat_stop_strings() const = 0;
};

}  // namespace tandem::frontend
