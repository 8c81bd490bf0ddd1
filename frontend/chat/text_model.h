#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/formats/model_file.h"
#include "frontend/chat/render_options.h"
#include "frontend/text/text_segment.h"

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
  /// True if the text so far is that of whole tokens: no part of a character is held back.
  virtual bool whole() const = 0;
};

/// The text side of a model: its tokenizer, its chat template and the numbers a request is checked
/// against. Immutable; safe to use from any thread.
class TextModel {
 public:
  virtual ~TextModel() = default;

  virtual const std::string& name() const = 0;
  virtual int vocab() const = 0;
  virtual int context() const = 0;  // tokens of prompt and answer together

  /// The text of a chat in the model's form, ending where the assistant's answer begins, unless
  /// the options say otherwise. kInvalidArgument if the template refuses the messages, or they are
  /// more than it may work with.
  virtual absl::StatusOr<std::vector<TextSegment>> RenderChat(
      std::span<const ChatMessage> messages, const RenderOptions& options) const = 0;
  /// The model's input for a rendered chat, start token included.
  virtual absl::StatusOr<std::vector<int32_t>> EncodeRendered(
      std::span<const TextSegment> segments) const = 0;
  /// The tokens of `segments` behind those of a chat's beginning. Nothing if they depend on the
  /// beginning.
  virtual absl::StatusOr<std::optional<std::vector<int32_t>>> EncodeContinuation(
      std::span<const TextSegment> segments) const = 0;
  /// RenderChat, as a chat usually is, and EncodeRendered.
  absl::StatusOr<std::vector<int32_t>> EncodeChat(std::span<const ChatMessage> messages) const;
  /// Raw text: no template, no control tokens; the start token where the model's file says so.
  /// kInvalidArgument for a text that is too long.
  virtual absl::StatusOr<std::vector<int32_t>> EncodeText(std::string_view text) const = 0;

  /// A text, in pieces, has this many tokens at least: as far as that is known without encoding it.
  virtual int64_t LeastTokens(std::span<const std::string_view> /*text*/) const { return 0; }

  virtual std::unique_ptr<TextStream> NewStream() const = 0;
  /// The bytes that a token stands for, which need not be whole characters; control tokens give
  /// their name. `token` must be in the vocabulary.
  virtual std::string TokenBytes(int32_t token) const = 0;
  /// Tokens that end an answer.
  virtual std::span<const int32_t> end_tokens() const = 0;
  /// Strings that end a chat's answer, because the template has no token for it.
  virtual std::span<const std::string> chat_stop_strings() const = 0;
};

/// kOutOfRange if a text, in pieces, is longer than the context: found out without encoding it, and
/// so not of every text that is.
absl::Status CheckTextFits(const TextModel& model, std::span<const std::string_view> text);

struct TextModelOptions {
  /// "chatml", "zephyr", or a file with a Jinja template; none: the model's own, else zephyr.
  std::optional<std::string> chat_template;
  int context = 0;  // what the engine can hold; 0: what the model was made for
};

/// The text side of a model file: its tokenizer and template. Says in the log where it had to
/// choose a template. The file may be closed afterwards. Errors name the file and what in it is
/// wrong.
absl::StatusOr<std::unique_ptr<TextModel>> LoadTextModel(const core::ModelFile& file,
                                                         const TextModelOptions& options = {});

}  // namespace tandem::frontend
