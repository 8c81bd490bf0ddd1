#include "frontend/http/gateway.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/support/fake_gateway_backend.h"
#include "tests/support/http_client.h"
#include "tests/support/read_file.h"

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
using WebJson = nlohmann::json;

constexpr const char* kHi = R"({"messages":[{"role":"user","content":"Hi"}])";

std::string HiWith(const std::string& more = "") { return kHi + more + "}"; }

/// The JSON of the "data:" lines of a stream; a line that is none, as a string.
std::vector<WebJson> EventsIn(const std::string& body) {
  std::vector<WebJson> events;
  size_t at = 0;
  while ((at = body.find("data: ", at)) != std::string::npos) {
    const size_t end = body.find("\n\n", at);
    const std::string data = body.substr(at + 6, end - at - 6);
    events.push_back(WebJson::accept(data) ? WebJson::parse(data) : WebJson(data));
    at = end;
  }
  return events;
}

TEST(Gateway, AnswersAChat) {
  FakeGatewayBackend backend;
  const RunningGateway gateway(backend);
  const HttpAnswer answer =
      Fetch(gateway.address(), PostRequest("/v1/chat/completions", HiWith(R"(,"max_tokens":5)")));
  ASSERT_EQ(answer.status, 200) << answer.body;
  EXPECT_EQ(answer.headers.at("content-type"), "application/json");
  EXPECT_THAT(answer.headers.at("x-request-id"), HasSubstr("req_"));
  const WebJson json = WebJson::parse(answer.body);
  EXPECT_THAT(json["id"].get<std::string>(), HasSubstr("chatcmpl-"));
  EXPECT_EQ(json["object"], "chat.completion");
  EXPECT_EQ(json["model"], "bytes");
  EXPECT_TRUE(json["created"].is_number_integer());
  EXPECT_TRUE(json["system_fingerprint"].is_string());
  const WebJson& choice = json["choices"][0];
  EXPECT_EQ(choice["index"], 0);
  EXPECT_EQ(choice["message"]["role"], "assistant");
  EXPECT_EQ(choice["message"]["content"], "Hello wörld");
  EXPECT_EQ(choice["finish_reason"], "stop");
  EXPECT_TRUE(choice["logprobs"].is_null());
  EXPECT_EQ(json["usage"]["prompt_tokens"], 12);
  EXPECT_EQ(json["usage"]["completion_tokens"], 12);
  EXPECT_EQ(json["usage"]["total_tokens"], 24);
  EXPECT_EQ(json["usage"]["prompt_tokens_details"]["cached_tokens"], 4);
  const FakeGatewayBackend::Started started = backend.Next();
  EXPECT_EQ(started.request.params.max_tokens, 5);
  EXPECT_FLOAT_EQ(started.request.params.sampling.temperature, 1);
  EXPECT_EQ(std::get<0>(started.request.input),
            (std::vector<ChatMessage>{{.role = "user", .content = "Hi"}}));
}

TEST(AnswerIds, SortAsTheyWereMade) {
  AnswerIds ids;
  std::string last;
  for (int i = 0; i < 1000; ++i) {
    const std::string id = ids.Next("resp_");
    ASSERT_TRUE(IsResponseId(id)) << id;
    ASSERT_LT(last, id);
    last = id;
  }
}

TEST(Gateway, StreamsAChat) {
  FakeGatewayBackend backend;
  const RunningGateway gateway(backend);
  const HttpAnswer answer =
      Fetch(gateway.address(),
            PostRequest("/v1/chat/completions",
                        HiWith(R"(,"stream":true,"stream_options":{"include_usage":true})")));
  ASSERT_EQ(answer.status, 200);
  EXPECT_EQ(answer.headers.at("content-type"), "text/event-stream; charset=utf-8");
  const std::vector<WebJson> events = EventsIn(answer.body);
  ASSERT_EQ(events.size(), 7U) << answer.body;
  EXPECT_EQ(events[0]["object"], "chat.completion.chunk");
  EXPECT_EQ(events[0]["choices"][0]["delta"]["role"], "assistant");
  EXPECT_EQ(events[0]["id"], events[5]["id"]);
  std::string text;
  for (size_t i = 1; i < 4; ++i) {
    text += events[i]["choices"][0]["delta"]["content"].get<std::string>();
    EXPECT_TRUE(events[i]["choices"][0]["finish_reason"].is_null());
    EXPECT_TRUE(events[i]["usage"].is_null());
  }
  EXPECT_EQ(text, "Hello wörld");
  EXPECT_EQ(events[4]["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(events[4]["choices"][0]["delta"], WebJson::object());
  EXPECT_EQ(events[5]["choices"], WebJson::array());
  EXPECT_EQ(events[5]["usage"]["total_tokens"], 24);
  EXPECT_EQ(events[6], "[DONE]");
}

TEST(Gateway, SaysThatItsProcessLives) {
  FakeGatewayBackend backend;
  const RunningGateway gateway(backend);
  const HttpAnswer answer = Fetch(gateway.address(), GetRequest("/health"));
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.body, R"({"status":"ok"})");
}

TEST(Gateway, HasTheRoutesOfTheDocument) {
  const std::string document = testing::ReadFile(TANDEM_SOURCE_DIR "/docs/http.md");
  EXPECT_THAT(document, HasSubstr("\n|---|---|---|\n" + GatewayRouteRows() + "\n"));
}

TEST(Gateway, AnswersSeveralRequestsOnOneConnection) {
  FakeGatewayBackend backend;
  const RunningGateway gateway(backend);
  RawHttpClient client(gateway.address());
  for (int i = 0; i < 3; ++i) {
    client.Send(PostRequest("/v1/chat/completions", HiWith()));
    EXPECT_EQ(client.Read().status, 200);
    client.Send(PostRequest("/v1/chat/completions", HiWith(R"(,"stream":true)")));
    EXPECT_THAT(client.Read().body, HasSubstr("[DONE]"));
  }
}

}  // namespace
}  // namespace tandem::frontend
