#include "frontend/http/api/http_fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "frontend/protocol/known_fields.h"
#include "frontend/protocol/protocol_fields.h"

namespace tandem::frontend {
namespace {

constexpr std::string_view kRead = "read";
constexpr std::string_view kAny = "any";

constexpr HttpField kHttpFields[] = {
    // What is asked for, and of whom.
    {"model", kAllApis, "read",
     "the served name or an alias; another is 404, none is the served one"},
    {"messages", kChatApi | kMessagesApi, "read",
     "a list of `role` and `content`: text, null, or a list of text parts, which are joined by "
     "newlines; `developer` is `system`"},
    {"prompt", kCompletionsApi, "read",
     "a text, token ids, or a list of either; of a list each one is answered, at most 64 answers"},
    {"input", kResponsesApi, "read", "a text, or a list of messages with text parts"},
    {"system", kMessagesApi, "read", "a text or a list of text blocks"},
    {"instructions", kResponsesApi, "read",
     "the system's message; in place of an earlier response's where there is one"},
    {"echo", kCompletionsApi, "read", "the prompt's text comes first"},
    {"user", kAllApis, "read",
     "the tenant: conversations and cached pages are shared within one only; it grants nothing"},
    {"metadata", kMessagesApi, "read", "`user_id` is the tenant, where there is no `user`"},
    {"metadata", kResponsesApi, "read", "comes back with the response; it is not kept"},
    {"tenant", kAllApis, "read", "another name of `user`"},
    {"conversation", kChatApis, "read",
     "a conversation of the server: the messages are the new ones only"},
    {"add_generation_prompt", kChatApis, "read", "as in [protocol.md](protocol.md)"},
    {"continue_final_message", kChatApis, "read",
     "as in [protocol.md](protocol.md); of messages true where the last message is the "
     "assistant's"},
    {"chat_template_kwargs", kChatApis, "read", "as in [protocol.md](protocol.md)"},
    {"accept_damage", kChatApis, "read", "as in [protocol.md](protocol.md)"},
    {"context_policy", kChatApis, "read", "as in [protocol.md](protocol.md)"},
    {"previous_response_id", kResponsesApi, "read", "goes on from a stored response"},
    {"store", kResponsesApi, "read", "true (the default): the response can be gone on from"},
    {"truncation", kResponsesApi, "read",
     "`auto` is the context policy `shift`, `disabled` is `stop`"},

    // How it is answered.
    {"stream", kAllApis, "read", "the answer comes in events"},
    {"stream_options", kAllApis, "read",
     "`include_usage`: a last chunk with the usage, of chat and completions"},
    {"max_tokens", kAllApis, "read",
     "default: the rest of the context; of completions 16; of messages it must be there"},
    {"max_completion_tokens", kChatApi | kCompletionsApi, "read", "another name of it"},
    {"max_output_tokens", kResponsesApi, "read", "another name of it"},
    {"n_predict", kAllApis, "read", "another name of it, of llama.cpp"},
    {"n", kChatApi | kCompletionsApi, "read", "answers, at most 16"},
    {"n", kMessagesApi | kResponsesApi, "off, 1", ""},
    {"best_of", kCompletionsApi, "read", "nothing but `n`, or 1"},
    {"logprobs", kChatApi, "read", "true: every token with its log-probability"},
    {"logprobs", kCompletionsApi, "read", "0 to 20: so many likeliest ones besides"},
    {"logprobs", kMessagesApi | kResponsesApi, "off", ""},
    {"top_logprobs", kChatApi, "read", "0 to 20, with `logprobs`: so many likeliest ones besides"},
    {"temperature", kAllApis, "read", "default 1; 0 is greedy"},
    {"top_p", kAllApis, "read", "default 1"},
    {"top_k", kAllApis, "read", "default 0, which is all, as -1 is"},
    {"min_p", kAllApis, "read", "default 0"},
    {"repetition_penalty", kAllApis, "read", "default 1"},
    {"repeat_penalty", kAllApis, "read", "another name of it, of llama.cpp"},
    {"presence_penalty", kAllApis, "read", "-2 to 2, default 0"},
    {"frequency_penalty", kAllApis, "read", "-2 to 2, default 0"},
    {"seed", kAllApis, "read", "default: drawn"},
    {"logit_bias", kAllApis, "read", "by token id"},
    {"stop", kAllApis, "read", "a text or a list of texts"},
    {"stop_sequences", kMessagesApi, "read", "the same"},
    {"stop_token_ids", kAllApis, "read", "token ids that end an answer"},
    {"ignore_eos", kAllApis, "read", "the model's own do not"},
    {"min_tokens", kAllApis, "read", "of an answer, which nothing ends before"},
    {"min_new_tokens", kAllApis, "read", "another name of it"},
    {"priority", kAllApis, "read", "-100 to 100: higher ones go first (of vLLM lower ones do)"},
    {"deadline", kAllApis, "read", "seconds, from the arrival of the request"},
    {"cache", kAllApis, "read", "false: nothing computed before is used"},
    {"speculate", kAllApis, "read", "false: no guessing ahead; the answer is the same"},

    // What other servers have in another form than the ZeroMQ protocol's table knows.
    {"tool_choice", kMessagesApi, R"(off, {"type":"none"}, {"type":"auto"})", ""},
    {"tool_choice", kResponsesApi, R"(off, "none", "auto")", ""},
    {"text", kResponsesApi, R"(off, {"format":{"type":"text"}})", ""},
    {"reasoning", kResponsesApi, R"(off, {"effort":null}, {"effort":"none"})", ""},
    {"output_config", kMessagesApi, "off", ""},
    {"container", kMessagesApi, "null", ""},
    {"context_management", kMessagesApi, "off", ""},
    {"prompt", kResponsesApi, "null", ""},
};

/// Fields that the protocol's reader would take, and that this kind of request has no place for.
bool BelongsElsewhere(std::string_view name, ApiKind api) {
  constexpr std::string_view kOfChat[] = {"messages", "conversation", "context_policy",
                                          "accept_damage"};
  constexpr std::string_view kOfComplete[] = {"prompt", "tokens", "echo"};
  const auto has = [&](const auto& list) {
    return std::find(std::begin(list), std::end(list), name) != std::end(list);
  };
  if (api == kCompletionsApi) return has(kOfChat) || name == "tokens";
  return has(kOfComplete) || (api == kResponsesApi && name == "messages");
}

const HttpField* FindHttpField(std::string_view name, ApiKind api) {
  const auto found = std::find_if(
      std::begin(kHttpFields), std::end(kHttpFields),
      [&](const HttpField& field) { return field.name == name && (field.apis & api) != 0; });
  return found == std::end(kHttpFields) ? nullptr : found;
}

bool IsNeutral(const nlohmann::json& value, std::string_view neutral) {
  constexpr std::string_view kOff = "off";
  if (value.is_null()) return true;
  std::string values(neutral);
  if (values.starts_with(kOff)) values.replace(0, kOff.size(), R"(false, 0, "", [], {})");
  const nlohmann::json list = nlohmann::json::parse("[" + values + "]");
  return std::find(list.begin(), list.end(), value) != list.end();
}

std::string ApiNames(int apis) {
  constexpr std::pair<int, std::string_view> kNames[] = {{kChatApi, "chat"},
                                                         {kCompletionsApi, "completions"},
                                                         {kMessagesApi, "messages"},
                                                         {kResponsesApi, "responses"}};
  if (apis == kAllApis) return "all";
  std::string names;
  for (const auto& [api, name] : kNames) {
    if ((apis & api) != 0) names += fmt::format("{}{}", names.empty() ? "" : ", ", name);
  }
  return names;
}

}  // namespace

std::span<const HttpField> HttpFields() { return kHttpFields; }

absl::Status CheckHttpFields(const nlohmann::json& object, ApiKind api, UnknownFields& unknown) {
  nlohmann::json others = nlohmann::json::object();
  for (auto it = object.begin(); it != object.end(); ++it) {
    const HttpField* field = FindHttpField(it.key(), api);
    if (field == nullptr) {
      if (!it->is_null() && BelongsElsewhere(it.key(), api)) {
        return InvalidArgument("{}: it is for other requests than this; found {}", it.key(),
                               Shown(*it));
      }
      others[it.key()] = *it;
    } else if (field->neutral != kRead && field->neutral != kAny &&
               !IsNeutral(*it, field->neutral)) {
      return Unimplemented("{}: this server does not have it yet; leave the field out (found {})",
                           it.key(), Shown(*it));
    }
  }
  // Some fields stand beside a penalty, which is read.
  for (const char* name :
       {"repetition_penalty", "repeat_penalty", "presence_penalty", "frequency_penalty"}) {
    if (object.contains(name)) others[name] = object[name];
  }
  return CheckFields(others, api == kCompletionsApi ? FieldPlace::kComplete : FieldPlace::kChat,
                     unknown);
}

void DropNeutralFields(ApiKind api, nlohmann::json& object) {
  for (const HttpField& field : kHttpFields) {
    if ((field.apis & api) != 0 && field.neutral != kRead) object.erase(std::string(field.name));
  }
}

std::string HttpFieldRows() {
  std::string rows;
  for (const HttpField& field : kHttpFields) {
    const bool built = field.neutral == kRead;
    rows += fmt::format("| `{}` | {} | {} | {} |\n", field.name, ApiNames(field.apis),
                        built                   ? "built"
                        : field.neutral == kAny ? "any value"
                                                : fmt::format("refused but at `{}`", field.neutral),
                        field.means);
  }
  return rows;
}

}  // namespace tandem::frontend
