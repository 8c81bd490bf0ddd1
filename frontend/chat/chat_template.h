#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "frontend/chat/render_options.h"
#include "frontend/text/text_segment.h"
#include "nlohmann/json.hpp"

namespace tandem::frontend {

namespace jinja {
struct Template;
}

/// Whether templates have a variable or function of that name already, so that a client must not
/// make one: messages, tools, bos_token, eos_token, add_generation_prompt, range, raise_exception
/// and so on.
bool IsTemplatesOwn(std::string_view name);

/// Turns a conversation into the text a model was trained on.
///
/// Immutable and cheap to copy; any number of threads may render at once. A Jinja template runs in
/// a sandbox: no input or output, and bounds on its steps, memory, depth and output.
class ChatTemplate {
 public:
  /// The template of a model, as jinja2 would render it under the settings of Hugging Face
  /// transformers
  /// (`ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)`, loop controls, tojson,
  /// raise_exception, strftime_now). `bos_token` and `eos_token` are the texts of the model's
  /// control tokens. Fails with InvalidArgument naming the line.
  static absl::StatusOr<ChatTemplate> FromJinja(std::string_view source, std::string bos_token,
                                                std::string eos_token,
                                                std::string name = "the model's own template");

  /// `<|im_start|>role`, newline, content, `<|im_end|>`, newline.
  static ChatTemplate ChatMl();
  /// `<|role|>`, newline, content, blank line. Its tags are stop strings, since a model without a
  /// template has no token that ends an answer in this form.
  static ChatTemplate Zephyr();

  /// Renders `messages`, an array of objects with at least a string `role` and a `content`: a
  /// string, a list of parts ({"type":"text","text":...}), or null for an assistant.
  ///
  /// Segments marked from_template were written by the template (or are one of the well-known role
  /// names); all else came from the messages, tools or variables. Fails with InvalidArgument on
  /// malformed messages, on those that the template itself refuses, on a last message that cannot
  /// be continued, and on faults of the template, by line; with ResourceExhausted if the template
  /// does not end or grows without bounds.
  absl::StatusOr<std::vector<TextSegment>> Render(const nlohmann::ordered_json& messages,
                                                  const RenderOptions& options = {}) const;
  absl::StatusOr<std::vector<TextSegment>> Render(const nlohmann::ordered_json& messages,
                                                  bool add_generation_prompt) const;

  /// Texts at which generation must stop, besides the model's own end tokens.
  const std::vector<std::string>& stop_strings() const { return stop_strings_; }

  /// For people: "chatml", "zephyr", or where the template comes from.
  const std::string& name() const { return name_; }

 private:
  enum class Form { kChatMl, kZephyr, kJinja };

  ChatTemplate(Form form, std::string name) : form_(form), name_(std::move(name)) {}
  absl::StatusOr<std::vector<TextSegment>> RenderWhole(const nlohmann::ordered_json& messages,
                                                       const RenderOptions& options) const;
  absl::StatusOr<std::vector<TextSegment>> RenderBuiltin(const nlohmann::ordered_json& messages,
                                                         bool add_generation_prompt) const;
  absl::StatusOr<std::vector<TextSegment>> RenderJinja(const nlohmann::ordered_json& messages,
                                                       const RenderOptions& options) const;

  Form form_;
  std::string name_;
  std::string bos_token_;
  std::string eos_token_;
  std::vector<std::string> stop_strings_;
  std::shared_ptr<const jinja::Template> template_;  // of kJinja
};

/// The concatenated bytes of all segments.
std::string JoinSegments(const std::vector<TextSegment>& segments);

/// A template and, where the choice should be told to the user, a sentence about it.
struct SelectedTemplate {
  ChatTemplate chat;
  std::string note;
};

/// Chooses the template of a model: what `choice` names (`chatml`, `zephyr`, or the path of a file
/// with a Jinja template), else the model's own (`tokenizer.chat_template`), else zephyr, which the
/// note says.
absl::StatusOr<SelectedTemplate> SelectTemplate(const std::optional<std::string>& choice,
                                                const std::optional<std::string>& model_template,
                                                std::string bos_token, std::string eos_token);

}  // namespace tandem::frontend
