#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "frontend/http/api/responses_answer.h"
#include "frontend/http/gateway.h"
#include "tests/support/fake_gateway_backend.h"
#include "tests/support/http_client.h"

/// The routes beside /v1/chat/completions.
namespace tandem::frontend {
namespace {

using ::testing::ElementsAre;
using testing::FakeGatewayBackend;
using testing::Fetch;
using testing::GetRequest;
using ::testing::HasSubstr;
using testing::HttpAnswer;
using ::testing::Not;
using testing::PostRequest;
using testing::RawHttpClient;
using testing::RunningGateway;
using ApiJson = nlohmann::json;

ApiJson PostJson(const RunningGateway& gateway, const std::string& path, const std::string& body,
                 int status = 200) {
  const HttpAnswer answer = Fetch(gateway.address(), PostRequest(path, body));
  EXPECT_EQ(answer.status, status) << path << body << answer.body;
  return ApiJson::accept(answer.body) ? ApiJson::parse(answer.body) : ApiJson();
}
ApiJson GetJson(const RunningGateway& gateway, const std::string& path, int status = 200) {
  const HttpAnswer answer = Fetch(gateway.address(), GetRequest(path));
  EXPECT_EQ(answer.status, status) << path << answer.body;
  return ApiJson::accept(answer.body) ? ApiJson::parse(answer.body) : ApiJson();
}

struct NamedEvent {
  std::string name;
  ApiJson data;
};
std::vector<NamedEvent> NamedEventsIn(const std::string& body) {
  std::vector<NamedEvent> events;
  size_t at = 0;
  while (at < body.size()) {
    const size_t end = body.find("\n\n", at);
    const std::string block = body.substr(at, end - at);
    at = end + 2;
    const size_t line = block.find('\n');
    if (!block.starts_with("event: ")) continue;
    events.push_back({block.substr(7, line - 7), ApiJson::parse(block.substr(line + 7))});
  }
  return events;
}
std::vector<std::string> NamesOf(const std::vector<NamedEvent>& events) {
  std::vector<std::string> names;
  for (const NamedEvent& event : events) names.push_back(event.name);
  return names;
}

TEST(GatewayApis, CompletesTexts) {
  FakeGatewayBackend backend;
  const RunningGateway gateway(backend);
  const ApiJson json = PostJson(gateway, "/v1/completions", R"({"prompt":["a","b"],"n":2})");
  EXPECT_EQ(json["object"], "text_completion");
  EXPECT_THAT(json["id"].get<std::string>(), HasSubstr("cmpl-"));
  ASSERT_EQ(json["choices"].size(), 4U);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(json["choices"][i]["index"], i);
    EXPECT_EQ(json["choices"][i]["text"], "Hello wörld");
    EXPECT_EQ(json["choices"][i]["finish_reason"], "stop");
  }
  EXPECT_EQ(json["usage"]["prompt_tokens"], 24) << "of both prompts";
  EXPECT_EQ(json["usage"]["completion_tokens"], 48);
  const HttpAnswer stream =
      Fetch(gateway.address(), PostRequest("/v1/completions", R"({"prompt":"a","stream":true})"));
  EXPECT_THAT(stream.body, HasSubstr(R"("choices":[{"index":0,"text":"Hel","logprobs":null)"));
  EXPECT_THAT(stream.body, HasSubstr(R"("text":"","logprobs":null,"finish_reason":"stop")"));
  EXPECT_THAT(stream.body, ::testing::EndsWith("data: [DONE]\n\n"));
}

TEST(GatewayApis, CancelsTheOtherPromptsOfARequestThatFails) {
  FakeGatewayBackend backend;
  backend.set_answers(false);
  const RunningGateway gateway(backend);
  RawHttpClient client(gateway.address());
  client.Send(PostRequest("/v1/completions", R"({"prompt":["a","b"]})"));
  const FakeGatewayBackend::Started first = backend.Next();
  const FakeGatewayBackend::Started second = backend.Next();
  first.events->OnAccepted(12);
  second.events->OnFailed(ErrorCode::kOverloaded, "full", std::nullopt);
  EXPECT_EQ(client.Read().status, 429);
  EXPECT_THAT(backend.cancelled(), ::testing::Contains(first.id));
}

TEST(GatewayApis, TellsWhyNothingComesOnceForAllPrompts) {
  FakeGatewayBackend backend;
  backend.set_answers(false);
  const RunningGateway gateway(backend);
  RawHttpClient client(gateway.address());
  client.Send(PostRequest("/v1/completions", R"({"prompt":["a","b"],"stream":true})"));
  const FakeGatewayBackend::Started parts[] = {backend.Next(), backend.Next()};
  for (const auto& part : parts) part.events->OnAccepted(12);
  for (const uint64_t number : {uint64_t{1}, uint64_t{2}}) {
    for (const auto& part : parts) part.events->OnNotice(number, fmt::format("notice {}", number));
  }
  DoneContents done;
  done.choices.emplace_back();
  for (const auto& part : parts) part.events->OnDone(done);
  const std::string body = client.Read().body;
  EXPECT_THAT(body, ::testing::StartsWith(": notice 1\n\n: notice 2\n\ndata: "));
  EXPECT_THAT(body.substr(20), Not(HasSubstr("notice")));
}

TEST(GatewayApis, TellsLogprobsInOpenAisForms) {
  FakeGatewayBackend backend;
  backend.pieces = {"a", "ö"};
  const RunningGateway gateway(backend);
  const std::string messages = R"({"messages":[{"role":"user","content":"Hi"}])";
  const ApiJson chat =
      PostJson(gateway, "/v1/chat/completions", messages + R"(,"logprobs":true,"top_logprobs":2})");
  const ApiJson& content = chat["choices"][0]["logprobs"]["content"];
  ASSERT_EQ(content.size(), 3U) << chat;
  EXPECT_EQ(content[0]["token"], "a");
  EXPECT_EQ(content[0]["logprob"], -0.5);
  EXPECT_EQ(content[0]["bytes"], ApiJson::array({97}));
  EXPECT_EQ(content[0]["top_logprobs"][1]["token"], "b");
  EXPECT_EQ(content[1]["bytes"], ApiJson::array({0xC3}));
  EXPECT_EQ(content[1]["token"], "\uFFFD");
  const ApiJson completion = PostJson(gateway, "/v1/completions", R"({"prompt":"x","logprobs":1})");
  const ApiJson& lists = completion["choices"][0]["logprobs"];
  EXPECT_EQ(lists["tokens"], ApiJson::array({"a", "\uFFFD", "\uFFFD"}));
  EXPECT_EQ(lists["token_logprobs"], ApiJson::array({-0.5, -0.5, -0.5}));
  EXPECT_EQ(lists["text_offset"], ApiJson::array({0, 1, 2})) << "characters";
  EXPECT_EQ(lists["top_logprobs"][0]["a"], -0.5);
  const HttpAnswer stream =
      Fetch(gateway.address(),
            PostRequest("/v1/chat/completions", messages + R"(,"logprobs":true,"stream":true})"));
  EXPECT_THAT(stream.body, HasSubstr(R"("delta":{"content":"a"},"logprobs":{"content":[{"token")"));
}

TEST(GatewayApis, TellsManyLogprobsAsItTellsFew) {
  FakeGatewayBackend backend;
  backend.pieces.assign(300, "some text ");
  const RunningGateway gateway(backend);
  const std::string body = R"({"messages":[{"role":"user","content":"Hi"}],"logprobs":true)";
  const ApiJson few = PostJson(gateway, "/v1/chat/completions", body + "}");
  const ApiJson many = PostJson(gateway, "/v1/chat/completions", body + R"(,"top_logprobs":9})");
  EXPECT_EQ(many["choices"][0]["message"], few["choices"][0]["message"]);
  EXPECT_EQ(many["usage"], few["usage"]);
  const ApiJson& tokens = many["choices"][0]["logprobs"]["content"];
  ASSERT_EQ(tokens.size(), 3000U);
  EXPECT_EQ(tokens[2999]["top_logprobs"].size(), 9U);
  for (const char* more : {"", R"(,"top_logprobs":9)"}) {
    const HttpAnswer stream = Fetch(
        gateway.address(), PostRequest("/v1/chat/completions", body + more + R"(,"stream":true})"));
    EXPECT_THAT(stream.body, ::testing::EndsWith("data: [DONE]\n\n"));
  }
}

TEST(GatewayApis, AnswersAnthropicsMessages) {
  FakeGatewayBackend backend;
  const RunningGateway gateway(backend);
  const std::string least =
      R"({"model":"bytes","max_tokens":9,"messages":[{"role":"user","content":"Hi"}])";
  const ApiJson json = PostJson(gateway, "/v1/messages", least + "}");
  EXPECT_EQ(json["type"], "message");
  EXPECT_EQ(json["role"], "assistant");
  EXPECT_THAT(json["id"].get<std::string>(), HasSubstr("msg_"));
  EXPECT_EQ(json["content"], ApiJson::parse(R"([{"type":"text","text":"Hello wörld"}])"));
  EXPECT_EQ(json["stop_reason"], "end_turn");
  EXPECT_TRUE(json["stop_sequence"].is_null());
  EXPECT_EQ(json["usage"]["input_tokens"], 8);
  EXPECT_EQ(json["usage"]["cache_read_input_tokens"], 4);
  EXPECT_EQ(json["usage"]["output_tokens"], 12);
  backend.reason = parallel::FinishReason::kLength;
  const HttpAnswer stream =
      Fetch(gateway.address(), PostRequest("/v1/messages", least + R"(,"stream":true})"));
  const std::vector<NamedEvent> events = NamedEventsIn(stream.body);
  ASSERT_THAT(NamesOf(events),
              ElementsAre("message_start", "content_block_start", "ping", "content_block_delta",
                          "content_block_delta", "content_block_delta", "content_block_stop",
                          "message_delta", "message_stop"));
  for (const NamedEvent& event : events) EXPECT_EQ(event.data["type"], event.name);
  EXPECT_EQ(events[0].data["message"]["content"], ApiJson::array());
  EXPECT_EQ(events[0].data["message"]["usage"]["input_tokens"], 12) << "read, or from the cache";
  EXPECT_EQ(events[0].data["message"]["usage"]["output_tokens"], 0);
  EXPECT_EQ(events[3].data["delta"], ApiJson::parse(R"({"type":"text_delta","text":"Hel"})"));
  EXPECT_EQ(events[7].data["delta"]["stop_reason"], "max_tokens");
  EXPECT_EQ(events[7].data["usage"], json["usage"]);
  const ApiJson wrong = PostJson(gateway, "/v1/messages", "{}", 400);
  EXPECT_EQ(wrong["type"], "error");
  EXPECT_EQ(wrong["error"]["type"], "invalid_request_error");
  EXPECT_EQ(PostJson(gateway, "/v1/messages",
                     R"({"model":"x","max_tokens":9,"messages":[{"role":"user","content":"Hi"}]})",
                     404)["error"]["type"],
            "not_found_error");
  backend.set_refusal(ErrorCode::kUnavailable, "ends", std::nullopt);
  EXPECT_EQ(PostJson(gateway, "/v1/messages", least + "}", 503)["error"]["type"],
            "overloaded_error");
  EXPECT_EQ(PostJson(gateway, "/v1/messages/count_tokens",
                     R"({"model":"bytes","messages":[{"role":"user","content":"Hi"}]})"),
            ApiJson::parse(R"({"input_tokens":18})"));
}

TEST(GatewayApis, TellsTheStopStringThatEndedAnAnswer) {
  FakeGatewayBackend backend;
  backend.stop_string = "END";
  const RunningGateway gateway(backend);
  const std::string chat =
      R"({"model":"bytes","max_tokens":9,"messages":[{"role":"user","content":"Hi"}])";
  const ApiJson choice = PostJson(gateway, "/v1/chat/completions", chat + "}")["choices"][0];
  EXPECT_EQ(choice["finish_reason"], "stop");
  EXPECT_EQ(choice["stop_reason"], "END");
  const ApiJson message = PostJson(gateway, "/v1/messages", chat + "}");
  EXPECT_EQ(message["stop_reason"], "stop_sequence");
  EXPECT_EQ(message["stop_sequence"], "END");
  const std::string streamed = chat + R"(,"stream":true})";
  EXPECT_THAT(Fetch(gateway.address(), PostRequest("/v1/chat/completions", streamed)).body,
              HasSubstr(R"("finish_reason":"stop","stop_reason":"END")"));
  EXPECT_THAT(Fetch(gateway.address(), PostRequest("/v1/messages", streamed)).body,
              HasSubstr(R"("delta":{"stop_reason":"stop_sequence","stop_sequence":"END"})"));
}

TEST(GatewayApis, KeepsResponsesAndGoesOnFromThem) {
  FakeGatewayBackend backend;
  const RunningGateway gateway(backend);
  const ApiJson first = PostJson(
      gateway, "/v1/responses",
      R"({"input":"Hi","instructions":"Be kind.","user":"u","metadata":{"a":"b"},"top_p":0.5})");
  const auto id = first["id"].get<std::string>();
  EXPECT_TRUE(IsResponseId(id)) << id;
  EXPECT_EQ(first["object"], "response");
  EXPECT_EQ(first["status"], "completed");
  EXPECT_EQ(first["output"][0]["type"], "message");
  EXPECT_EQ(first["output"][0]["content"][0]["text"], "Hello wörld");
  EXPECT_EQ(first["usage"]["input_tokens_details"]["cached_tokens"], 4);
  EXPECT_EQ(first["instructions"], "Be kind.");
  EXPECT_EQ(first["metadata"]["a"], "b");
  EXPECT_EQ(first["top_p"], 0.5);
  EXPECT_EQ(backend.Next().request.conversation, id);

  const ApiJson second =
      PostJson(gateway, "/v1/responses",
               R"({"input":"And?","user":"u","previous_response_id":")" + id + R"("})");
  EXPECT_EQ(second["previous_response_id"], id);
  EXPECT_EQ(
      std::get<0>(backend.Next().request.input),
      (std::vector<ChatMessage>{
          {"system", "Be kind."}, {"user", "Hi"}, {"assistant", "Hello wörld"}, {"user", "And?"}}));
  PostJson(gateway, "/v1/responses",
           R"({"input":"Or?","user":"u","instructions":"Be rude.","store":false,)"
           R"("previous_response_id":")" +
               id + R"("})");
  const FakeGatewayBackend::Started third = backend.Next();
  EXPECT_EQ(std::get<0>(third.request.input).front(), (ChatMessage{"system", "Be rude."}));
  EXPECT_EQ(std::get<0>(third.request.input).size(), 4U);
  EXPECT_FALSE(third.request.conversation.has_value()) << "it is not stored";

  const ApiJson told = GetJson(gateway, "/v1/responses/" + id + "?user=u");
  EXPECT_EQ(told["id"], id);
  EXPECT_EQ(told["output"][0]["content"][0]["text"], "Hello wörld");
  EXPECT_EQ(told["created_at"], first["created_at"]);
  GetJson(gateway, "/v1/responses/" + id, 404);
  GetJson(gateway, "/v1/responses/x", 404);
  PostJson(gateway, "/v1/responses", R"({"input":"x","previous_response_id":")" + id + R"("})",
           404);
  PostJson(gateway, "/v1/responses", R"({"input":"x","previous_response_id":"../x"})", 404);
  const std::string erase =
      "DELETE /v1/responses/" + id + "?user=u HTTP/1.1\r\nHost: localhost\r\n\r\n";
  EXPECT_EQ(Fetch(gateway.address(), erase).status, 200);
  EXPECT_EQ(Fetch(gateway.address(), erase).status, 404);
}

TEST(GatewayApis, StreamsResponses) {
  FakeGatewayBackend backend;
  const RunningGateway gateway(backend);
  const HttpAnswer stream =
      Fetch(gateway.address(), PostRequest("/v1/responses", R"({"input":"Hi","stream":true})"));
  const std::vector<NamedEvent> events = NamedEventsIn(stream.body);
  ASSERT_THAT(NamesOf(events),
              ElementsAre("response.created", "response.in_progress", "response.output_item.added",
                          "response.content_part.added", "response.output_text.delta",
                          "response.output_text.delta", "response.output_text.delta",
                          "response.output_text.done", "response.content_part.done",
                          "response.output_item.done", "response.completed"));
  for (size_t i = 0; i < events.size(); ++i) {
    EXPECT_EQ(events[i].data["sequence_number"], i);
    EXPECT_EQ(events[i].data["type"], events[i].name);
  }
  EXPECT_EQ(events[7].data["text"], "Hello wörld");
  EXPECT_EQ(events[10].data["response"]["usage"]["total_tokens"], 24);
  backend.reason = parallel::FinishReason::kLength;
  const ApiJson cut = PostJson(gateway, "/v1/responses", R"({"input":"Hi"})");
  EXPECT_EQ(cut["status"], "incomplete");
  EXPECT_EQ(cut["incomplete_details"]["reason"], "max_output_tokens");
}

TEST(GatewayApis, ListsModels) {
  FakeGatewayBackend backend;
  GatewayOptions options;
  options.model = "served/name";
  options.aliases = {"gpt-4o"};
  const RunningGateway gateway(backend, std::move(options));
  const ApiJson list = GetJson(gateway, "/v1/models");
  EXPECT_EQ(list["object"], "list");
  ASSERT_EQ(list["data"].size(), 2U);
  EXPECT_EQ(list["data"][0]["id"], "served/name");
  EXPECT_EQ(list["data"][0]["max_model_len"], 4096);
  EXPECT_EQ(list["data"][1]["id"], "gpt-4o");
  EXPECT_EQ(list["data"][1]["root"], "served/name");
  EXPECT_EQ(GetJson(gateway, "/v1/models/served/name")["id"], "served/name");
  EXPECT_EQ(GetJson(gateway, "/v1/models/served%2Fname")["id"], "served/name");
  EXPECT_THAT(GetJson(gateway, "/v1/models/other", 404)["error"]["message"].get<std::string>(),
              HasSubstr("served/name, gpt-4o"));
  EXPECT_EQ(PostJson(gateway, "/v1/chat/completions",
                     R"({"model":"gpt-4o","messages":[{"role":"user","content":"Hi"}]})")["model"],
            "gpt-4o");
}

TEST(GatewayApis, TokenizesInBothForms) {
  FakeGatewayBackend backend;
  const RunningGateway gateway(backend);
  const ApiJson vllm = PostJson(gateway, "/tokenize", R"({"model":"bytes","prompt":"Hi"})");
  EXPECT_EQ(vllm, ApiJson::parse(R"({"count":2,"max_model_len":4096,"tokens":[72,105]})"));
  EXPECT_EQ(PostJson(gateway, "/tokenize", R"({"content":"Hi"})")["tokens"],
            ApiJson::array({72, 105}));
  const ApiJson pieces = PostJson(gateway, "/tokenize", R"({"content":"Hö","with_pieces":true})");
  EXPECT_EQ(pieces["tokens"][0], ApiJson::parse(R"({"id":72,"piece":"H"})"));
  EXPECT_EQ(pieces["tokens"][1], ApiJson::parse(R"({"id":195,"piece":[195]})"));
  EXPECT_EQ(
      PostJson(gateway, "/tokenize", R"({"messages":[{"role":"user","content":"Hi"}]})")["count"],
      18);
  PostJson(gateway, "/tokenize", R"({})", 400);
  PostJson(gateway, "/tokenize", R"({"model":"another","prompt":"Hi"})", 404);
  PostJson(gateway, "/tokenize", R"({"model":7,"prompt":"Hi"})", 400);
  PostJson(gateway, "/detokenize", R"({"model":"another","tokens":[72]})", 404);
  PostJson(gateway, "/apply-template", R"({"model":"another","messages":[]})", 404);
  PostJson(gateway, "/tokenize", R"({"prompt":"a","content":"b"})", 400);
  PostJson(gateway, "/tokenize", R"({"prompt":7})", 400);
  EXPECT_EQ(PostJson(gateway, "/detokenize", R"({"tokens":[72,195,182]})"),
            ApiJson::parse(R"({"prompt":"Hö","content":"Hö"})"));
  EXPECT_EQ(PostJson(gateway, "/detokenize", R"({"tokens":[195]})")["prompt"], "\uFFFD");
  EXPECT_EQ(PostJson(gateway, "/detokenize", R"({"tokens":[999]})", 400)["error"]["param"],
            "tokens[0]");
  PostJson(gateway, "/detokenize", R"({"tokens":"x"})", 400);
  EXPECT_EQ(
      PostJson(gateway, "/apply-template", R"({"messages":[{"role":"user","content":"Hi"}]})"),
      ApiJson::parse(R"({"prompt":"user:Hi\nassistant:"})"));
  EXPECT_EQ(PostJson(gateway, "/apply-template",
                     R"({"messages":[{"role":"user","content":"Hi"}],)"
                     R"("add_generation_prompt":false,"chat_template_kwargs":{"a":1}})"),
            ApiJson::parse(R"({"prompt":"a=1\nuser:Hi\n"})"));
  EXPECT_EQ(PostJson(gateway, "/apply-template",
                     R"({"messages":[{"role":"assistant","content":"Hi"}]})", 400)["error"]["type"],
            "invalid_request_error");
}

TEST(GatewayApis, ReadsLongTextsBesideOthers) {
  FakeGatewayBackend backend;
  const RunningGateway gateway(backend);
  const std::string text(size_t{1} << 20, 'x');
  EXPECT_EQ(PostJson(gateway, "/tokenize", R"({"prompt":")" + text + R"("})")["count"],
            size_t{1} << 20);
  PostJson(gateway, "/v1/chat/completions",
           R"({"messages":[{"role":"user","content":")" + text + R"("}]})");
  EXPECT_EQ(std::get<0>(backend.Next().request.input)[0].content.size(), size_t{1} << 20);
  PostJson(gateway, "/v1/chat/completions", R"({"messages":[{"role":"user","content":")" + text,
           400);
}

TEST(GatewayApis, TellsNoMoreTokensThanItTakes) {
  FakeGatewayBackend backend;
  const RunningGateway gateway(backend);
  const std::string text((size_t{1} << 20) + 1, 'x');
  EXPECT_THAT(
      PostJson(gateway, "/tokenize", R"({"prompt":")" + text + R"("})", 400)["error"]["message"]
          .get<std::string>(),
      HasSubstr("1048577 tokens"));
}

TEST(GatewayApis, TellsItsVersion) {
  FakeGatewayBackend backend;
  GatewayOptions options;
  options.version = "1.2.3";
  const RunningGateway gateway(backend, std::move(options));
  EXPECT_EQ(GetJson(gateway, "/version"), ApiJson::parse(R"({"version":"1.2.3"})"));
}

TEST(GatewayApis, ExposesFigures) {
  FakeGatewayBackend backend;
  const RunningGateway gateway(backend);
  PostJson(gateway, "/v1/chat/completions", R"({"messages":[{"role":"user","content":"Hi"}]})");
  PostJson(gateway, "/v1/chat/completions", "{}", 400);
  Fetch(gateway.address(), "half\r\n\r\n");
  const HttpAnswer answer = Fetch(gateway.address(), GetRequest("/metrics"));
  EXPECT_EQ(answer.headers.at("content-type"), "text/plain; version=0.0.4; charset=utf-8");
  for (const char* line :
       {"tandem:num_requests_running{model_name=\"bytes\"} 2",
        "tandem:num_requests_waiting{model_name=\"bytes\"} 3",
        "tandem:kv_cache_usage_perc{model_name=\"bytes\"} 0.25",
        "tandem:prefix_cache_queries_total{model_name=\"bytes\"} 1000",
        "tandem:prefix_cache_hits_total{model_name=\"bytes\"} 400",
        "tandem:prompt_tokens_total{model_name=\"bytes\"} 600",
        "tandem:generation_tokens_total{model_name=\"bytes\"} 77",
        "tandem:time_to_first_token_seconds_count{model_name=\"bytes\"} 1",
        "tandem:inter_token_latency_seconds_count{model_name=\"bytes\"} 2",
        "tandem:e2e_request_latency_seconds_count{model_name=\"bytes\"} 1",
        "tandem:request_prompt_tokens_total{model_name=\"bytes\"} 12", "finished_reason=\"stop\"",
        "code=\"invalid_argument\"", "code=\"invalid_request\"", "route=\"/v1/chat/completions\"",
        "# TYPE tandem:time_to_first_token_seconds histogram",
        "tandem:engine_up{model_name=\"bytes\"} 1"}) {
    EXPECT_THAT(answer.body, HasSubstr(line));
  }
  const HttpAnswer again = Fetch(gateway.address(), GetRequest("/metrics"));
  EXPECT_THAT(again.body, HasSubstr("tandem:generation_tokens_total{model_name=\"bytes\"} 77\n"))
      << "the engine's counters are not added up";
}

TEST(GatewayApis, IsReadyWhereATokenComes) {
  FakeGatewayBackend backend;
  backend.set_answers(false);
  GatewayOptions options;
  options.readiness.deadline = std::chrono::milliseconds(100);
  options.readiness.kept = std::chrono::milliseconds(0);
  const RunningGateway gateway(backend, std::move(options));
  EXPECT_EQ(GetJson(gateway, "/ready", 503)["error"]["code"], "unavailable") << "nothing came";
  const FakeGatewayBackend::Started probe = backend.Next();
  EXPECT_EQ(probe.request.params.max_tokens, 1);
  EXPECT_THAT(backend.cancelled(), ElementsAre(probe.id));
  backend.set_answers(true);
  backend.reason = parallel::FinishReason::kLength;
  GetJson(gateway, "/ready");
  backend.set_refusal(ErrorCode::kUnavailable, "rank 1 is gone", std::nullopt);
  EXPECT_THAT(GetJson(gateway, "/ready", 503)["error"]["message"].get<std::string>(),
              HasSubstr("rank 1 is gone"));
  backend.set_refusal(ErrorCode::kOverloaded, "full", std::nullopt);
  GetJson(gateway, "/ready");
  backend.set_ready(false);
  GetJson(gateway, "/ready", 503);
  GetJson(gateway, "/health");
}

TEST(GatewayApis, AsksOnceForManyThatWantToKnow) {
  FakeGatewayBackend backend;
  backend.reason = parallel::FinishReason::kLength;
  const RunningGateway gateway(backend);
  for (int i = 0; i < 5; ++i) GetJson(gateway, "/ready");
  EXPECT_EQ(backend.started(), 1U) << "what it told is kept for a second";
  PostJson(gateway, "/v1/chat/completions", R"({"messages":[{"role":"user","content":"Hi"}]})");
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));
  GetJson(gateway, "/ready");
  EXPECT_EQ(backend.started(), 2U) << "a token came a short while ago";
}

}  // namespace
}  // namespace tandem::frontend
