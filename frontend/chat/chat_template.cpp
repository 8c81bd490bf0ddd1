#include "frontend/chat/chat_template.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "core/system/text_file.h"
#include "frontend/jinja/builtins/builtins.h"
#include "frontend/jinja/check.h"
#include "frontend/jinja/interpreter.h"
#include "frontend/jinja/syntax/parser.h"
#include "frontend/jinja/values/sandbox.h"
#include "frontend/jinja/values/text.h"
#include "frontend/jinja/values/unicode.h"
#include "frontend/text/utf8.h"

namespace tandem::frontend {

namespace jinja {
/// A parsed template.
struct Template {
  Body body;
};
}  // namespace jinja

namespace {

/// What a template wrote, as the tokenizer takes it.
std::vector<TextSegment> SegmentsOf(const jinja::Text& text) {
  std::vector<TextSegment> segments;
  for (jinja::TextRun& run : text.Runs()) segments.push_back({std::move(run.bytes), run.trusted});
  return segments;
}

using Json = nlohmann::ordered_json;

constexpr size_t kMaxTemplateBytes = 1u << 20;

// Role names that may be part of a control token (`<|user|>`): text of no other value can be.
constexpr std::string_view kRoles[] = {"system", "developer", "user",     "assistant",
                                       "tool",   "function",  "ipython",  "model",
                                       "bot",    "human",     "document", "documents"};

bool IsKnownRole(std::string_view role) {
  return std::find(std::begin(kRoles), std::end(kRoles), role) != std::end(kRoles);
}

absl::Status CheckPart(const Json& part, size_t message, size_t index) {
  if (part.is_string()) {
    return absl::OkStatus();
  }
  if (!part.is_object() || !part.contains("type") || !part["type"].is_string()) {
    return InvalidArgument(
        "messages[{}].content[{}] must be an object with a string 'type', found {}", message, index,
        part.type_name());
  }
  if (part["type"] == "text" && (!part.contains("text") || !part["text"].is_string())) {
    return InvalidArgument("messages[{}].content[{}] has the type 'text' but no string 'text'",
                           message, index);
  }
  return absl::OkStatus();
}

absl::Status CheckMessage(const Json& message, size_t index) {
  if (!message.is_object()) {
    return InvalidArgument("messages[{}] must be an object with 'role' and 'content', found {}",
                           index, message.type_name());
  }
  const auto role = message.find("role");
  if (role == message.end() || !role->is_string()) {
    return InvalidArgument("messages[{}] lacks a string 'role', such as \"user\"", index);
  }
  const auto content = message.find("content");
  if (content == message.end() || content->is_null()) {
    if (*role == "assistant") {
      return absl::OkStatus();
    }
    return InvalidArgument("messages[{}] (role {}) lacks a 'content'", index,
                           role->get_ref<const std::string&>());
  }
  if (content->is_array()) {
    for (size_t part = 0; part < content->size(); ++part) {
      TANDEM_RETURN_IF_ERROR(CheckPart((*content)[part], index, part));
    }
    return absl::OkStatus();
  }
  if (!content->is_string()) {
    return InvalidArgument("messages[{}].content must be a string or a list of parts, found {}",
                           index, content->type_name());
  }
  return absl::OkStatus();
}

absl::Status CheckMessages(const Json& messages) {
  if (!messages.is_array()) {
    return InvalidArgument(
        "messages must be an array of objects with 'role' and 'content', found {}",
        messages.type_name());
  }
  for (size_t index = 0; index < messages.size(); ++index) {
    TANDEM_RETURN_IF_ERROR(CheckMessage(messages[index], index));
  }
  return absl::OkStatus();
}

// The text of a content: parts follow one another. Parts that are no text fail.
absl::StatusOr<std::string> Flatten(const Json& message, size_t index) {
  const auto content = message.find("content");
  if (content == message.end() || content->is_null()) {
    return std::string();
  }
  if (content->is_string()) {
    return content->get<std::string>();
  }
  std::string text;
  for (const Json& part : *content) {
    if (part.is_string()) {
      text += part.get_ref<const std::string&>();
    } else if (part["type"] == "text") {
      text += part["text"].get_ref<const std::string&>();
    } else {
      return InvalidArgument("messages[{}].content has a part of type '{}'; only text is supported",
                             index, part["type"].get_ref<const std::string&>());
    }
  }
  return text;
}

// Makes values of a client's JSON: nothing in them is trusted.
class Importer {
 public:
  explicit Importer(jinja::Sandbox& sandbox) : sandbox_(sandbox) {}

  absl::StatusOr<jinja::Value> Import(const Json& json, int depth = 0) {
    using jinja::Value;
    if (depth > sandbox_.limits().value_depth - kWrapping) {
      return InvalidArgument("JSON is nested deeper than {}",
                             sandbox_.limits().value_depth - kWrapping);
    }
    switch (json.type()) {
      case Json::value_t::boolean:
        return Value::Bool(json.get<bool>());
      case Json::value_t::number_integer:
        return Value::Int(json.get<int64_t>());
      case Json::value_t::number_unsigned: {
        const auto number = json.get<uint64_t>();
        return number <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max())
                   ? Value::Int(static_cast<int64_t>(number))
                   : Value::Float(static_cast<double>(number));
      }
      case Json::value_t::number_float:
        return Value::Float(json.get<double>());
      case Json::value_t::string:
        return sandbox_.String(json.get<std::string>(), /*trusted=*/false);
      case Json::value_t::array: {
        std::vector<Value> items;
        for (const Json& item : json) {
          TANDEM_ASSIGN_OR_RETURN(Value value, Import(item, depth + 1));
          items.push_back(std::move(value));
        }
        return sandbox_.List(std::move(items));
      }
      case Json::value_t::object: {
        auto dict = std::make_unique<jinja::Dict>();
        for (const auto& [name, member] : json.items()) {
          TANDEM_ASSIGN_OR_RETURN(const Value key, sandbox_.String(name, false));
          TANDEM_ASSIGN_OR_RETURN(Value value, ImportMember(name, member, depth));
          dict->Set(key, std::move(value));
        }
        return sandbox_.Take(std::move(dict));
      }
      default:
        return Value();
    }
  }

 private:
  static constexpr int kWrapping = 20;  // levels left for what the template builds around

  absl::StatusOr<jinja::Value> ImportMember(const std::string& name, const Json& member,
                                            int depth) {
    // messages[i].role, the second level of nesting.
    if (depth == 1 && name == "role" && member.is_string() &&
        IsKnownRole(member.get_ref<const std::string&>())) {
      return sandbox_.String(member.get<std::string>(), /*trusted=*/true);
    }
    return Import(member, depth + 1);
  }

  jinja::Sandbox& sandbox_;
};

/// Ends a rendered chat behind the text of its last message, of which the template may have taken
/// white space at both ends.
///
/// Source: apply_chat_template(continue_final_message=True) of Hugging Face transformers; but here
/// the text is looked for where the template has put what messages say, and not in what it wrote.
absl::Status CutBehind(std::string_view content, std::vector<TextSegment>& segments) {
  const size_t begin = jinja::SkipSpace(content, 0, content.size());
  const size_t end = jinja::SkipSpaceBack(content, begin, content.size());
  const std::string_view stripped = content.substr(begin, end - begin);
  const std::string_view with_space = content.substr(begin);
  if (stripped.empty()) {
    return InvalidArgument(
        "continue_final_message: the last message has no text to go on from; leave the field out");
  }
  for (size_t i = segments.size(); i-- > 0;) {
    std::string& text = segments[i].text;
    const size_t at = segments[i].from_template ? std::string::npos : text.rfind(stripped);
    if (at == std::string::npos) continue;
    const bool has_space = text.compare(at, with_space.size(), with_space) == 0;
    text.resize(at + (has_space ? with_space : stripped).size());
    segments.resize(i + 1);
    return absl::OkStatus();
  }
  return InvalidArgument(
      "continue_final_message: the template does not write the last message as it is, so that "
      "nobody can go on from its end");
}

std::tm LocalTime() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  return local;
}

}  // namespace

bool IsTemplatesOwn(std::string_view name) {
  constexpr std::string_view kVariables[] = {"messages", "tools", "bos_token", "eos_token",
                                             "add_generation_prompt"};
  if (std::find(std::begin(kVariables), std::end(kVariables), name) != std::end(kVariables)) {
    return true;
  }
  const auto& functions = jinja::GlobalFunctions();
  return std::any_of(functions.begin(), functions.end(),
                     [&](const auto& function) { return function.name == name; });
}

absl::StatusOr<ChatTemplate> ChatTemplate::FromJinja(std::string_view source, std::string bos_token,
                                                     std::string eos_token, std::string name) {
  if (source.size() > kMaxTemplateBytes) {
    return InvalidArgument("{} has {} bytes; at most {} are taken", name, source.size(),
                           kMaxTemplateBytes);
  }
  absl::StatusOr<jinja::Body> body = jinja::Parse(WithoutByteOrderMark(source));
  const absl::Status status = body.ok() ? jinja::CheckNames(*body) : body.status();
  if (!status.ok()) {
    return InvalidArgument("{}, {}", name, Message(status));
  }
  ChatTemplate chat(Form::kJinja, std::move(name));
  chat.bos_token_ = std::move(bos_token);
  chat.eos_token_ = std::move(eos_token);
  chat.template_ = std::make_shared<const jinja::Template>(jinja::Template{*std::move(body)});
  return chat;
}

ChatTemplate ChatTemplate::ChatMl() { return ChatTemplate(Form::kChatMl, "chatml"); }

ChatTemplate ChatTemplate::Zephyr() {
  ChatTemplate chat(Form::kZephyr, "zephyr");
  chat.stop_strings_ = {"<|system|>", "<|user|>", "<|assistant|>"};
  return chat;
}

absl::StatusOr<std::vector<TextSegment>> ChatTemplate::Render(
    const nlohmann::ordered_json& messages, bool add_generation_prompt) const {
  RenderOptions options;
  options.add_generation_prompt = add_generation_prompt;
  return Render(messages, options);
}

absl::StatusOr<std::vector<TextSegment>> ChatTemplate::Render(
    const nlohmann::ordered_json& messages, const RenderOptions& options) const {
  TANDEM_RETURN_IF_ERROR(CheckMessages(messages));
  if (!options.continue_final_message) return RenderWhole(messages, options);
  if (messages.empty()) {
    return InvalidArgument("continue_final_message: there is no message to go on from");
  }
  RenderOptions closed = options;
  closed.add_generation_prompt = false;
  TANDEM_ASSIGN_OR_RETURN(std::vector<TextSegment> segments, RenderWhole(messages, closed));
  TANDEM_ASSIGN_OR_RETURN(const std::string content, Flatten(messages.back(), messages.size() - 1));
  TANDEM_RETURN_IF_ERROR(CutBehind(content, segments));
  return segments;
}

absl::StatusOr<std::vector<TextSegment>> ChatTemplate::RenderWhole(
    const nlohmann::ordered_json& messages, const RenderOptions& options) const {
  if (!options.tools.is_null() && !options.tools.is_array()) {
    return InvalidArgument("tools must be an array, found {}", options.tools.type_name());
  }
  if (form_ == Form::kJinja) {
    return RenderJinja(messages, options);
  }
  if (!options.tools.empty()) {
    return InvalidArgument("the chat form {} has no place for tools", name_);
  }
  if (!options.variables.empty()) {
    return InvalidArgument("chat_template_kwargs: the chat form {} has no variables", name_);
  }
  return RenderBuiltin(messages, options.add_generation_prompt);
}

absl::StatusOr<std::vector<TextSegment>> ChatTemplate::RenderBuiltin(
    const nlohmann::ordered_json& messages, bool add_generation_prompt) const {
  const bool chatml = form_ == Form::kChatMl;
  const auto opening = [chatml](const std::string& role) {
    return (chatml ? "<|im_start|>" + role : "<|" + role + "|>") + "\n";
  };
  jinja::Text out;
  for (size_t index = 0; index < messages.size(); ++index) {
    const std::string role = messages[index]["role"].get<std::string>();
    if (!IsKnownRole(role)) {
      return InvalidArgument(
          "messages[{}] has the role '{}'; {} knows system, user, assistant and tool", index, role,
          name_);
    }
    TANDEM_ASSIGN_OR_RETURN(const std::string content, Flatten(messages[index], index));
    out.Append(opening(role), true);
    out.Append(content, false);
    out.Append(chatml ? "<|im_end|>\n" : "\n\n", true);
  }
  if (add_generation_prompt) {
    out.Append(opening("assistant"), true);
  }
  return SegmentsOf(out);
}

absl::StatusOr<std::vector<TextSegment>> ChatTemplate::RenderJinja(
    const nlohmann::ordered_json& messages, const RenderOptions& options) const {
  jinja::Sandbox sandbox{jinja::Limits{}};
  jinja::Interpreter interpreter(sandbox, options.now ? *options.now : LocalTime());
  Importer importer(sandbox);
  for (const auto& [name, variable] : options.variables.items()) {
    TANDEM_ASSIGN_OR_RETURN(jinja::Value value, importer.Import(variable));
    interpreter.Define(name, std::move(value));
  }
  TANDEM_ASSIGN_OR_RETURN(jinja::Value conversation, importer.Import(messages));
  TANDEM_ASSIGN_OR_RETURN(jinja::Value tools, importer.Import(options.tools));
  TANDEM_ASSIGN_OR_RETURN(jinja::Value bos_token, sandbox.String(bos_token_, true));
  TANDEM_ASSIGN_OR_RETURN(jinja::Value eos_token, sandbox.String(eos_token_, true));
  interpreter.Define("messages", std::move(conversation));
  interpreter.Define("tools", std::move(tools));
  interpreter.DefineDefault("documents", jinja::Value());
  interpreter.Define("add_generation_prompt", jinja::Value::Bool(options.add_generation_prompt));
  interpreter.Define("bos_token", std::move(bos_token));
  interpreter.Define("eos_token", std::move(eos_token));
  const absl::StatusOr<jinja::Text> text = interpreter.Render(template_->body);
  if (!text.ok()) {
    return absl::Status(text.status().code(), fmt::format("{}, {}", name_, Message(text.status())));
  }
  return SegmentsOf(*text);
}

std::string JoinSegments(const std::vector<TextSegment>& segments) {
  std::string text;
  for (const TextSegment& segment : segments) {
    text += segment.text;
  }
  return text;
}

absl::StatusOr<SelectedTemplate> SelectTemplate(const std::optional<std::string>& choice,
                                                const std::optional<std::string>& model_template,
                                                std::string bos_token, std::string eos_token) {
  if (choice == "chatml") {
    return SelectedTemplate{ChatTemplate::ChatMl(), ""};
  }
  if (choice == "zephyr") {
    return SelectedTemplate{ChatTemplate::Zephyr(), ""};
  }
  if (choice) {
    const absl::StatusOr<std::string> source = ReadTextFile(*choice);
    if (!source.ok()) {
      return InvalidArgument("--chat-template {}: neither chatml nor zephyr, nor a file: {}",
                             *choice, Message(source.status()));
    }
    auto chat =
        ChatTemplate::FromJinja(*source, std::move(bos_token), std::move(eos_token), *choice);
    if (!chat.ok()) return InvalidArgument("--chat-template {}", Message(chat.status()));
    return SelectedTemplate{*std::move(chat), ""};
  }
  if (model_template) {
    TANDEM_ASSIGN_OR_RETURN(
        ChatTemplate chat,
        ChatTemplate::FromJinja(*model_template, std::move(bos_token), std::move(eos_token)));
    return SelectedTemplate{std::move(chat), ""};
  }
  return SelectedTemplate{ChatTemplate::Zephyr(),
                          "the model has no chat template: using the zephyr form "
                          "(--chat-template chooses another)"};
}

}  // namespace tandem::frontend
