#include "frontend/http/api/api_request.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace tandem::frontend {
namespace {

using ::testing::ElementsAre;
using ::testing::FloatEq;
using ::testing::HasSubstr;
using AskJson = nlohmann::json;

constexpr const char* kMessagesField = R"("messages":[{"role":"user","content":"Hi"}])";

using Reader = absl::StatusOr<ApiRequest> (*)(const AskJson&, const ProtocolLimits&);

absl::StatusOr<ApiRequest> Ask(Reader reader, const std::string& fields) {
  return reader(AskJson::parse("{" + fields + "}"), {});
}
absl::StatusOr<ApiRequest> AskChat(const std::string& more) {
  return Ask(ReadChatRequest, std::string(kMessagesField) + more);
}
absl::StatusOr<ApiRequest> AskMessages(const AskJson& body, const ProtocolLimits& limits) {
  return ReadMessagesRequest(body, limits);
}
/// The only request for an answer; fails the test where there is none.
GenerateRequest One(const absl::StatusOr<ApiRequest>& read) {
  EXPECT_TRUE(read.ok()) << read.status();
  if (!read.ok() || read->generates.size() != 1) return {};
  return read->generates.front();
}
GenerateRequest ChatWith(const std::string& more) { return One(AskChat(more)); }
std::string ErrorOf(const absl::StatusOr<ApiRequest>& read) {
  return read.ok() ? "accepted" : Message(read.status());
}
std::vector<ChatMessage> MessagesOf(const GenerateRequest& request) {
  const auto* messages = std::get_if<0>(&request.input);
  return messages == nullptr ? std::vector<ChatMessage>{} : *messages;
}

TEST(ChatRequest, HasTheDefaultsOfTheApi) {
  const GenerateRequest request = ChatWith("");
  EXPECT_FALSE(request.params.max_tokens.has_value());
  EXPECT_THAT(request.params.sampling.temperature, FloatEq(1));
  EXPECT_THAT(request.params.sampling.top_p, FloatEq(1));
  EXPECT_EQ(request.params.sampling.top_k, 0);
  EXPECT_FALSE(request.params.seed.has_value());
  EXPECT_FALSE(request.params.logprobs.has_value());
  EXPECT_EQ(request.samples, 1);
  EXPECT_EQ(request.tenant, "");
  EXPECT_FALSE(request.conversation.has_value());
}

TEST(ChatRequest, EveryBuiltFieldDoesWhatItSays) {
  using Check = std::function<bool(const GenerateRequest&)>;
  const std::pair<const char*, Check> cases[] = {
      {R"("max_tokens":7)", [](const auto& r) { return r.params.max_tokens == 7; }},
      {R"("max_completion_tokens":7)", [](const auto& r) { return r.params.max_tokens == 7; }},
      {R"("max_tokens":7,"max_completion_tokens":7)",
       [](const auto& r) { return r.params.max_tokens == 7; }},
      {R"("n_predict":-1)", [](const auto& r) { return !r.params.max_tokens; }},
      {R"("temperature":0.5)", [](const auto& r) { return r.params.sampling.temperature == 0.5F; }},
      {R"("temperature":0)", [](const auto& r) { return r.params.sampling.temperature == 0; }},
      {R"("temperature":null)", [](const auto& r) { return r.params.sampling.temperature == 1; }},
      {R"("top_p":0.25)", [](const auto& r) { return r.params.sampling.top_p == 0.25F; }},
      {R"("top_k":40)", [](const auto& r) { return r.params.sampling.top_k == 40; }},
      {R"("top_k":-1)", [](const auto& r) { return r.params.sampling.top_k == 0; }},
      {R"("min_p":0.125)", [](const auto& r) { return r.params.sampling.min_p == 0.125F; }},
      {R"("repetition_penalty":1.5)",
       [](const auto& r) { return r.params.sampling.repetition_penalty == 1.5F; }},
      {R"("repeat_penalty":1.5)",
       [](const auto& r) { return r.params.sampling.repetition_penalty == 1.5F; }},
      {R"("presence_penalty":0.5)",
       [](const auto& r) { return r.params.sampling.presence_penalty == 0.5F; }},
      {R"("frequency_penalty":-2)",
       [](const auto& r) { return r.params.sampling.frequency_penalty == -2.0F; }},
      {R"("add_generation_prompt":false)",
       [](const auto& r) { return !r.render.add_generation_prompt; }},
      {R"("continue_final_message":true)",
       [](const auto& r) { return r.render.continue_final_message; }},
      {R"("chat_template_kwargs":{"enable_thinking":false})",
       [](const auto& r) { return r.render.variables["enable_thinking"] == false; }},
      {R"("n":3)", [](const auto& r) { return r.samples == 3; }},
      {R"("stop":"x")",
       [](const auto& r) { return r.params.stop == std::vector<std::string>{"x"}; }},
      {R"("stop":["x","y"])", [](const auto& r) { return r.params.stop.size() == 2; }},
      {R"("stop":null)", [](const auto& r) { return r.params.stop.empty(); }},
      {R"("seed":7)", [](const auto& r) { return r.params.seed == 7U; }},
      {R"("seed":-1)", [](const auto& r) { return r.params.seed == UINT64_MAX; }},
      {R"("logit_bias":{"7":-100})",
       [](const auto& r) {
         return r.params.sampling.logit_bias ==
                std::vector<std::pair<int32_t, float>>{{7, -100.0F}};
       }},
      {R"("logprobs":true)", [](const auto& r) { return r.params.logprobs == 0; }},
      {R"("logprobs":true,"top_logprobs":5)", [](const auto& r) { return r.params.logprobs == 5; }},
      {R"("logprobs":false,"top_logprobs":0)", [](const auto& r) { return !r.params.logprobs; }},
      {R"("user":"u")", [](const auto& r) { return r.tenant == "u"; }},
      {R"("tenant":"u")", [](const auto& r) { return r.tenant == "u"; }},
      {R"("conversation":"c")", [](const auto& r) { return r.conversation == "c"; }},
      {R"("conversation":"c","accept_damage":true)", [](const auto& r) { return r.accept_damage; }},
      {R"("context_policy":"window:4096")",
       [](const auto& r) { return r.context_policy->window == 4096; }},
      {R"("ignore_eos":true)", [](const auto& r) { return r.params.ignore_eos; }},
      {R"("min_tokens":3)", [](const auto& r) { return r.params.min_tokens == 3; }},
      {R"("stop_token_ids":[1,2])",
       [](const auto& r) {
         return r.params.stop_tokens == std::vector<int32_t>{1, 2};
       }},
      {R"("priority":-5)", [](const auto& r) { return r.params.priority == -5; }},
      {R"("deadline":2.5)", [](const auto& r) { return r.deadline_seconds == 2.5; }},
      {R"("cache":false)", [](const auto& r) { return !r.params.reuse; }},
      {R"("speculate":false)", [](const auto& r) { return !r.params.speculate; }},
      {R"("response_format":{"type":"text"})", [](const auto&) { return true; }},
      {R"("tools":[],"tool_choice":"none","parallel_tool_calls":false)",
       [](const auto&) { return true; }},
      {R"("store":true,"metadata":{"a":"b"},"service_tier":"auto")",
       [](const auto&) { return true; }},
  };
  for (const auto& [field, check] : cases) {
    const auto read = AskChat(std::string(",") + field);
    ASSERT_TRUE(read.ok()) << field << read.status();
    EXPECT_TRUE(check(read->generates.front())) << field;
    EXPECT_EQ(read->unknown_fields.count, 0U) << field;
  }
}

TEST(ChatRequest, WhatIsWrongIsRefusedByName) {
  const std::pair<const char*, const char*> cases[] = {
      {R"("max_tokens":-1)", "max_tokens: expected an integer"},
      {R"("max_tokens":"7")", "max_tokens: expected an integer"},
      {R"("max_tokens":7,"max_completion_tokens":8)", "max_completion_tokens: 8 stands beside"},
      {R"("temperature":-0.1)", "temperature: expected"},
      {R"("temperature":"hot")", "temperature: expected"},
      {R"("top_p":1.5)", "top_p: expected"},
      {R"("n":0)", "n: expected an integer from 1"},
      {R"("n":17)", "n: expected an integer from 1 to 16"},
      {R"("n":2,"conversation":"c")", "n: a conversation"},
      {R"("stop":7)", "stop: expected"},
      {R"("seed":1.5)", "seed: expected"},
      {R"("logprobs":5)", "logprobs: expected true or false"},
      {R"("top_logprobs":5)", "top_logprobs: it needs logprobs"},
      {R"("logprobs":true,"top_logprobs":21)", "top_logprobs: expected an integer from 0 to 20"},
      {R"("stream":"yes")", "stream: expected"},
      {R"("stream_options":true)", "stream_options: expected"},
      {R"("stream_options":{"include_usage":1})", "include_usage: expected"},
      {R"("user":7)", "user: expected"},
      {R"("user":"a","tenant":"b")", "user: it stands beside tenant"},
      {R"("model":7)", "model: expected"},
      {R"("conversation":"")", "conversation: expected"},
      {R"("context_policy":"some")", "context_policy: "},
      {R"("response_format":{"type":"json_object"})", "response_format: this server"},
      {R"("response_format":{"type":"json_schema"})", "response_format: this server"},
      {R"("tools":[{"type":"function"}])", "tools: this server"},
      {R"("tool_choice":"required")", "tool_choice: this server"},
      {R"("functions":[{}])", "functions: this server"},
      {R"("modalities":["audio"])", "modalities: this server"},
      {R"("audio":{"voice":"x"})", "audio: this server"},
      {R"("reasoning_effort":"high")", "reasoning_effort: this server"},
      {R"("grammar":"root ::= x")", "grammar: this server"},
      {R"("chat_template":"{{ x }}")", "chat_template: this server"},
      {R"("best_of":2)", "best_of: this server"},
      {R"("presence_penalty":3)", "presence_penalty: expected"},
      {R"("chat_template_kwargs":{"messages":[]})", "chat_template_kwargs: "},
      {R"("frequency_penalty":1,"repeat_last_n":64)", "repeat_last_n: this server"},
  };
  for (const auto& [field, message] : cases) {
    EXPECT_THAT(ErrorOf(AskChat(std::string(",") + field)), HasSubstr(message)) << field;
  }
}

TEST(ChatRequest, TakesMessagesAsTheyCome) {
  const auto messages = [](const std::string& list) {
    return MessagesOf(One(Ask(ReadChatRequest, R"("messages":)" + list)));
  };
  EXPECT_THAT(messages(R"([{"role":"developer","content":"a"},{"role":"user","content":null},
                           {"role":"assistant"},{"role":"tool","tool_call_id":"1","content":"b"}])"),
              ElementsAre(ChatMessage{"system", "a"}, ChatMessage{"user", ""},
                          ChatMessage{"assistant", ""}, ChatMessage{"tool", "b"}));
  EXPECT_THAT(messages(R"([{"role":"user","name":"x","content":[{"type":"text","text":"a"},
                           {"type":"text","text":"b","cache_control":{"type":"ephemeral"}}]}])"),
              ElementsAre(ChatMessage{"user", "a\nb"}));
  EXPECT_THAT(messages(R"([{"role":"user","content":[]}])"), ElementsAre(ChatMessage{"user", ""}));
  const std::pair<const char*, const char*> wrong[] = {
      {R"([])", "messages: expected"},
      {R"("Hi")", "messages: expected"},
      {R"(["Hi"])", "messages[0]: expected an object"},
      {R"([{"role":"king","content":"x"}])", "messages[0].role: expected"},
      {R"([{"content":"x"}])", "messages[0].role: expected"},
      {R"([{"role":"user","content":7}])", "messages[0].content: expected"},
      {R"([{"role":"user","content":["x"]}])", "messages[0].content[0]: expected"},
      {R"([{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}])",
       "messages[0].content[0].type: this server takes parts of type text only, found \"image_url"},
      {R"([{"role":"user","content":[{"type":"input_audio"}]}])", "input_audio"},
      {R"([{"role":"user","content":[{"type":"text"}]}])", "messages[0].content[0].text"},
      {R"([{"role":"assistant","content":null,"tool_calls":[{"id":"1"}]}])",
       "messages[0].tool_calls: this server"},
  };
  for (const auto& [list, message] : wrong) {
    EXPECT_THAT(ErrorOf(Ask(ReadChatRequest, std::string(R"("messages":)") + list)),
                HasSubstr(message))
        << list;
  }
}

TEST(ChatRequest, StreamsWhereItIsAsked) {
  const auto read = AskChat(R"(,"stream":true,"stream_options":{"include_usage":true})");
  ASSERT_TRUE(read.ok());
  EXPECT_TRUE(read->stream);
  EXPECT_TRUE(read->include_usage);
  EXPECT_FALSE(AskChat("")->stream);
  EXPECT_EQ(AskChat(R"(,"model":"m")")->model, "m");
}

TEST(CompletionRequest, TakesPromptsOfAllKinds) {
  const auto ask = [](const std::string& fields) { return Ask(ReadCompletionRequest, fields); };
  EXPECT_EQ(std::get<1>(One(ask(R"("prompt":"Hi")")).input), "Hi");
  EXPECT_EQ(One(ask(R"("prompt":"Hi")")).params.max_tokens, 16);
  EXPECT_EQ(One(ask(R"("prompt":"Hi","max_tokens":3)")).params.max_tokens, 3);
  EXPECT_FALSE(One(ask(R"("prompt":"Hi","n_predict":-1)")).params.max_tokens.has_value());
  EXPECT_EQ(std::get<2>(One(ask(R"("prompt":[1,2,3])")).input), (std::vector<int32_t>{1, 2, 3}));
  const auto several = ask(R"("prompt":["a","b"],"n":2,"echo":true,"logprobs":3)");
  ASSERT_TRUE(several.ok()) << several.status();
  ASSERT_EQ(several->generates.size(), 2U);
  EXPECT_EQ(std::get<1>(several->generates[1].input), "b");
  EXPECT_EQ(several->generates[1].samples, 2);
  EXPECT_EQ(several->generates[1].params.logprobs, 3);
  EXPECT_TRUE(several->generates[0].echo);
  const auto tokens = ask(R"("prompt":[[1],[2,3]])");
  ASSERT_TRUE(tokens.ok());
  EXPECT_EQ(std::get<2>(tokens->generates[1].input), (std::vector<int32_t>{2, 3}));
  EXPECT_EQ(One(ask(R"("prompt":"Hi","n":2,"best_of":2)")).samples, 2);
  const std::pair<const char*, const char*> wrong[] = {
      {R"("n":1)", "prompt: expected"},
      {R"("prompt":[])", "prompt: expected"},
      {R"("prompt":7)", "prompt: expected"},
      {R"("prompt":["a",7])", "prompt[1]: expected"},
      {R"("prompt":[-1])", "prompt[0]: expected a token id"},
      {R"("prompt":[[1],[]])", "prompt[1]: expected"},
      {R"("prompt":"Hi","best_of":3)", "best_of: this server"},
      {R"("prompt":"Hi","suffix":"x")", "suffix: this server"},
      {R"("prompt":"Hi","logprobs":21)", "logprobs: expected an integer from 0 to 20"},
  };
  for (const auto& [fields, message] : wrong) {
    EXPECT_THAT(ErrorOf(ask(fields)), HasSubstr(message)) << fields;
  }
  std::string many = R"("n":16,"prompt":["a")";
  for (int i = 0; i < 4; ++i) many += R"(,"a")";
  EXPECT_THAT(ErrorOf(ask(many + "]")), HasSubstr("5 prompts with 16 answers"));
}

TEST(MessagesRequest, TakesWhatAnthropicsClientsSend) {
  const GenerateRequest request =
      One(Ask(AskMessages,
              R"("model":"bytes","max_tokens":9,"system":[{"type":"text","text":"Be kind."}],
         "messages":[{"role":"user","content":[{"type":"text","text":"Hi"}]},
                     {"role":"assistant","content":"Yes?"},{"role":"user","content":"Go on"}],
         "stop_sequences":["x"],"top_k":5,"metadata":{"user_id":"u"},
         "tool_choice":{"type":"auto"},"thinking":{"type":"disabled"})"));
  EXPECT_THAT(MessagesOf(request),
              ElementsAre(ChatMessage{"system", "Be kind."}, ChatMessage{"user", "Hi"},
                          ChatMessage{"assistant", "Yes?"}, ChatMessage{"user", "Go on"}));
  EXPECT_EQ(request.params.max_tokens, 9);
  EXPECT_THAT(request.params.sampling.temperature, FloatEq(1));
  EXPECT_EQ(request.params.sampling.top_k, 5);
  EXPECT_THAT(request.params.stop, ElementsAre("x"));
  EXPECT_EQ(request.tenant, "u");
  const GenerateRequest begun =
      One(Ask(AskMessages, R"("max_tokens":9,"messages":[{"role":"user","content":"a"},)"
                           R"({"role":"assistant","content":"b"}])"));
  EXPECT_TRUE(begun.render.continue_final_message) << "the answer was begun";
  const std::string least = R"("max_tokens":9,)" + std::string(kMessagesField);
  const std::pair<std::string, const char*> wrong[] = {
      {kMessagesField, "max_tokens: expected"},
      {R"("max_tokens":9)", "messages: expected"},
      {least + R"(,"tools":[{"name":"x"}])", "tools: this server"},
      {least + R"(,"tool_choice":{"type":"any"})", "tool_choice: this server"},
      {least + R"(,"thinking":{"type":"enabled","budget_tokens":1024})", "thinking: this server"},
      {least + R"(,"system":7)", "system: expected"},
      {least + R"(,"metadata":7)", "metadata: expected"},
      {R"("max_tokens":9,"messages":[{"role":"system","content":"x"}])", "messages[0].role"},
      {R"("max_tokens":9,"messages":[{"role":"user","content":[{"type":"image"}]}])",
       "messages[0].content[0].type"},
  };
  for (const auto& [fields, message] : wrong) {
    EXPECT_THAT(ErrorOf(Ask(AskMessages, fields)), HasSubstr(message)) << fields;
  }
  EXPECT_TRUE(ReadMessagesRequest(AskJson::parse("{" + std::string(kMessagesField) + "}"), {},
                                  /*count_only=*/true)
                  .ok());
}

TEST(ResponsesRequest, TakesInputOfAllKinds) {
  const auto ask = [](const std::string& fields) { return Ask(ReadResponsesRequest, fields); };
  const auto plain = ask(R"("input":"Hi","instructions":"Be kind.","max_output_tokens":7)");
  EXPECT_THAT(MessagesOf(One(plain)),
              ElementsAre(ChatMessage{"system", "Be kind."}, ChatMessage{"user", "Hi"}));
  EXPECT_EQ(One(plain).params.max_tokens, 7);
  EXPECT_TRUE(plain->store);
  EXPECT_TRUE(plain->has_instructions);
  EXPECT_EQ(plain->told["instructions"], "Be kind.");
  EXPECT_EQ(plain->told["max_output_tokens"], 7);
  EXPECT_THAT(MessagesOf(One(ask(
                  R"("input":[{"role":"developer","content":"a"},
                      {"type":"message","role":"user","content":[{"type":"input_text","text":"b"}]},
                      {"role":"assistant","id":"msg_1","status":"completed","type":"message",
                       "content":[{"type":"output_text","text":"c","annotations":[]}]}])"))),
              ElementsAre(ChatMessage{"system", "a"}, ChatMessage{"user", "b"},
                          ChatMessage{"assistant", "c"}));
  const auto after = ask(R"("input":"Hi","previous_response_id":"resp_1","store":false)");
  EXPECT_EQ(after->previous_response, "resp_1");
  EXPECT_FALSE(after->store);
  EXPECT_EQ(One(ask(R"("input":"Hi","conversation":{"id":"c"})")).conversation, "c");
  EXPECT_FALSE(ask(R"("input":"Hi","conversation":"c")")->store);
  EXPECT_EQ(One(ask(R"("input":"Hi","truncation":"auto")")).context_policy->kind,
            ContextPolicy::Kind::kShift);
  const std::pair<const char*, const char*> wrong[] = {
      {R"("model":"x")", "input: expected"},
      {R"("input":[])", "input: expected"},
      {R"("input":[{"type":"function_call"}])", "input[0].type: this server"},
      {R"("input":[{"role":"user","content":[{"type":"input_image"}]}])",
       "input[0].content[0].type"},
      {R"("input":"Hi","truncation":"some")", "truncation: expected"},
      {R"("input":"Hi","text":{"format":{"type":"json_schema"}})", "text: this server"},
      {R"("input":"Hi","tools":[{"type":"web_search"}])", "tools: this server"},
      {R"("input":"Hi","reasoning":{"effort":"high"})", "reasoning: this server"},
      {R"("input":"Hi","background":true)", "background: this server"},
      {R"("input":"Hi","include":["message.output_text.logprobs"])", "include: this server"},
      {R"("input":"Hi","conversation":{"name":"c"})", "conversation: expected"},
      {R"("input":"Hi","conversation":"c","previous_response_id":"resp_1")",
       "previous_response_id: it stands beside"},
      {R"("input":"Hi","max_output_tokens":5,"max_tokens":6)", "max_output_tokens"},
  };
  for (const auto& [fields, message] : wrong) {
    EXPECT_THAT(ErrorOf(ask(fields)), HasSubstr(message)) << fields;
  }
}

}  // namespace
}  // namespace tandem::frontend
