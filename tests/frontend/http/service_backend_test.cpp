#include "frontend/http/service_backend.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "tests/support/fake_gateway_backend.h"
#include "tests/support/frame_client.h"
#include "tests/support/http_client.h"
#include "tests/support/served_engine.h"

/// The whole way of a request: HTTP, the service, and an engine that answers "You said: ...".
namespace tandem::frontend {
namespace {

using testing::Eventually;
using testing::Fetch;
using testing::GetRequest;
using ::testing::HasSubstr;
using testing::HttpAnswer;
using testing::PostRequest;
using testing::RawHttpClient;
using testing::RunningGateway;
using testing::ServedEngine;
using WayJson = nlohmann::json;

/// A service with both of its front ends.
struct ServedGateway {
  ServedEngine served;
  ServiceBackend backend{served.service};
  RunningGateway gateway{backend};

  WayJson Post(const std::string& path, const std::string& body, int status = 200) const {
    const HttpAnswer answer = Fetch(gateway.address(), PostRequest(path, body));
    EXPECT_EQ(answer.status, status) << answer.body;
    return WayJson::parse(answer.body);
  }
  WayJson Chat(const std::string& text, const std::string& more = "", int status = 200) const {
    return Post("/v1/chat/completions",
                R"({"messages":[{"role":"user","content":")" + text + R"("}])" + more + "}",
                status);
  }
};

TEST(ServiceBackend, AnswersWhatComesOverHttp) {
  const ServedGateway way;
  const WayJson chat = way.Chat("hello", R"(,"logprobs":true,"n":2)");
  ASSERT_EQ(chat["choices"].size(), 2U);
  EXPECT_EQ(chat["choices"][1]["message"]["content"], "You said: hello");
  EXPECT_EQ(chat["choices"][1]["logprobs"]["content"].size(), 15U);
  EXPECT_EQ(chat["usage"]["completion_tokens"], 30);
  const HttpAnswer stream =
      Fetch(way.gateway.address(),
            PostRequest("/v1/chat/completions",
                        R"({"messages":[{"role":"user","content":"hello"}],"stream":true})"));
  EXPECT_THAT(stream.body, HasSubstr("[DONE]"));
  EXPECT_EQ(way.Post("/v1/completions",
                     R"({"prompt":"hello","max_tokens":8,"echo":true})")["choices"][0]["text"],
            "helloYou said");
  EXPECT_EQ(way.Chat("hello", R"(,"logit_bias":{"9999":1})", 400)["error"]["code"],
            "invalid_argument");
}

TEST(ServiceBackend, GoesOnFromNoResponseThatIsNotComplete) {
  const ServedGateway way;
  RawHttpClient client(way.gateway.address());
  const std::string text(1200, 'x');
  client.Send(PostRequest("/v1/responses", R"({"stream":true,"input":")" + text + R"("})"));
  const std::string begin = client.ReadUntil("response.output_text.delta");
  const std::string id = begin.substr(begin.find("resp_"), 37);
  ASSERT_TRUE(IsResponseId(id)) << begin;
  const std::string more = R"({"input":"And?","previous_response_id":")" + id + R"("})";
  EXPECT_THAT(way.Post("/v1/responses", more, 429)["error"]["message"].get<std::string>(),
              HasSubstr("is not complete yet"));
  client.ReadUntil("response.completed");
  EXPECT_TRUE(Eventually([&] {
    return Fetch(way.gateway.address(), PostRequest("/v1/responses", more)).status == 200;
  }));
}

TEST(ServiceBackend, TellsOfAStoredResponseThatItWasCut) {
  const ServedGateway way;
  const WayJson cut = way.Post("/v1/responses", R"({"input":"one","max_output_tokens":3})");
  ASSERT_EQ(cut["status"], "incomplete");
  const WayJson told = WayJson::parse(
      Fetch(way.gateway.address(), GetRequest("/v1/responses/" + cut["id"].get<std::string>()))
          .body);
  for (const char* field : {"status", "incomplete_details", "output", "usage", "created_at"}) {
    EXPECT_EQ(told[field], cut[field]) << field;
  }
}

TEST(ServiceBackend, StreamsAnEchoThatIsLargerThanTheBudgetOfAClient) {
  const ServedGateway way;
  const std::string body = R"({"prompt":")" + std::string(4000, 'x') +
                           R"(","max_tokens":2,"echo":true,"logprobs":20,"stream":)";
  const WayJson whole = way.Post("/v1/completions", body + "false}");
  const std::string stream =
      Fetch(way.gateway.address(), PostRequest("/v1/completions", body + "true}")).body;
  EXPECT_THAT(stream, ::testing::EndsWith("data: [DONE]\n\n"));
  EXPECT_THAT(stream, HasSubstr(whole["choices"][0]["text"].get<std::string>().substr(0, 4000)));
}

TEST(ServiceBackend, BoundsLogprobsOfAllPromptsTogether) {
  const ServedGateway way;
  const std::string rest = R"(],"max_tokens":3000,"logprobs":20})";
  std::string prompts = R"("a")";
  way.Post("/v1/completions", R"({"prompt":[)" + prompts + rest);
  for (int i = 0; i < 7; ++i) prompts += R"(,"a")";
  const WayJson refused = way.Post("/v1/completions", R"({"prompt":[)" + prompts + rest, 400);
  EXPECT_EQ(refused["error"]["param"], "logprobs");
}

TEST(ServiceBackend, KeepsConversationsForBothFrontEnds) {
  const ServedGateway way;
  const WayJson first = way.Post("/v1/responses", R"({"input":"one","user":"u"})");
  const auto id = first["id"].get<std::string>();
  const WayJson second = way.Post(
      "/v1/responses", R"({"input":"two","user":"u","previous_response_id":")" + id + R"("})");
  EXPECT_EQ(second["output"][0]["content"][0]["text"], "You said: two");
  const std::string path = "/v1/responses/" + id + "?user=u";
  const WayJson told = WayJson::parse(Fetch(way.gateway.address(), GetRequest(path)).body);
  EXPECT_EQ(told["usage"], first["usage"]) << "what the answer took";
  EXPECT_GT(told["usage"]["input_tokens"], 0);
  EXPECT_EQ(told["status"], "completed");
  EXPECT_THAT(Fetch(way.gateway.address(), GetRequest(path)).body, HasSubstr("You said: one"));
  const std::string erase = "DELETE " + path + " HTTP/1.1\r\nHost: localhost\r\n\r\n";
  EXPECT_EQ(Fetch(way.gateway.address(), erase).status, 200);
  EXPECT_EQ(Fetch(way.gateway.address(), GetRequest(path)).status, 404);
  way.Chat("three", R"(,"conversation":"c")");
  EXPECT_EQ(way.Chat("four", R"(,"conversation":"c")")["conversation"], "c");
}

TEST(ServiceBackend, FreesWhatAClientThatLeavesHasAskedFor) {
  ServedGateway way;
  RawHttpClient client(way.gateway.address());
  client.Send(PostRequest("/v1/chat/completions",
                          R"({"messages":[{"role":"user","content":"endless"}],"stream":true})"));
  EXPECT_THAT(client.ReadUntil("\"delta\":{\"content\":"), HasSubstr("200 OK"));
  EXPECT_EQ(way.served.engine.running(), 1);
  client.Close();
  EXPECT_TRUE(Eventually([&] { return way.served.engine.running() == 0; }));
}

TEST(ServiceBackend, TheStatusShowsTheGatewayForHttp) {
  ServedGateway way;
  way.served.service.ShowHttp([&] { return way.gateway.Status(); });
  EXPECT_EQ(Fetch(way.gateway.address(), GetRequest("/health")).status, 200);
  EXPECT_EQ(Fetch(way.gateway.address(), GetRequest("/nothing")).status, 404);
  const RawHttpClient open(way.gateway.address());
  testing::FrameClient client(way.served.endpoint());
  WayJson status;
  EXPECT_TRUE(Eventually([&] {
    client.Send({{"v", 1}, {"type", "status"}, {"id", "s"}});
    status = *client.Receive();
    return status["http"]["connections"] == 1;
  }));
  EXPECT_EQ(status["http"]["address"], way.gateway.address());
  EXPECT_EQ(status["http"]["requests"], 2);
  way.served.service.ShowHttp(nullptr);  // not at once, and the gateway goes first here
  EXPECT_TRUE(Eventually([&] {
    client.Send({{"v", 1}, {"type", "status"}, {"id", "s"}});
    return client.Receive()->value("http", WayJson()).is_null();
  }));
  way.served.service.Stop();
  EXPECT_TRUE(way.served.Join().ok());
}

TEST(ServiceBackend, TellsHowTheEngineDoes) {
  ServedGateway way;
  EXPECT_EQ(Fetch(way.gateway.address(), GetRequest("/ready")).status, 200);
  EXPECT_THAT(Fetch(way.gateway.address(), GetRequest("/metrics")).body,
              HasSubstr("tandem:engine_up{model_name=\"bytes\"} 1"));
  way.served.service.Drain(std::chrono::milliseconds(0));
  EXPECT_TRUE(
      Eventually([&] { return Fetch(way.gateway.address(), GetRequest("/ready")).status == 503; }));
  EXPECT_EQ(way.Chat("hello", "", 503)["error"]["code"], "unavailable");
  EXPECT_EQ(Fetch(way.gateway.address(), GetRequest("/health")).status, 200);
}

}  // namespace
}  // namespace tandem::frontend
