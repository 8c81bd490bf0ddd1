#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "frontend/http/gateway.h"
#include "tests/support/fake_gateway_backend.h"
#include "tests/support/http_client.h"

/// What a gateway turns away, and what it tells then.
namespace tandem::frontend {
namespace {

using testing::FakeGatewayBackend;
using testing::Fetch;
using testing::GetRequest;
using ::testing::HasSubstr;
using testing::HttpAnswer;
using ::testing::Not;
using testing::PostRequest;
using testing::RawHttpClient;
using testing::RunningGateway;

constexpr const char* kChat = "/v1/chat/completions";
constexpr const char* kSimple = R"({"messages":[{"role":"user","content":"Hi"}]})";

nlohmann::json ErrorIn(const HttpAnswer& answer) {
  return nlohmann::json::parse(answer.body)["error"];
}

TEST(GatewayGuard, AnswersEveryRefusalInOpenAisForm) {
  FakeGatewayBackend backend;
  const RunningGateway gateway(backend);
  struct Refused {
    std::string request;
    int status;
    std::string type;
    std::string message;
  };
  const std::string head = std::string("POST ") + kChat + " HTTP/1.1\r\nHost: localhost\r\n";
  const Refused cases[] = {
      {GetRequest("/nowhere"), 404, "not_found_error", "no such route"},
      {GetRequest(kChat), 405, "invalid_request_error", "POST"},
      {PostRequest("/v1/models", "{}"), 405, "invalid_request_error", "GET, HEAD"},
      {"TRACE /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 405, "invalid_request_error", "GET"},
      {head + "Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}", 415,
       "invalid_request_error", "application/json"},
      {head + "Content-Length: 2\r\n\r\n{}", 415, "invalid_request_error", "application/json"},
      {head + "Content-Type: application/json\r\nContent-Encoding: gzip\r\n"
              "Content-Length: 2\r\n\r\n{}",
       415, "invalid_request_error", "Content-Encoding"},
      {PostRequest(kChat, "{"), 400, "invalid_request_error", "not JSON"},
      {PostRequest(kChat, "[]"), 400, "invalid_request_error", "object"},
      {PostRequest(kChat, ""), 400, "invalid_request_error", "empty"},
      {PostRequest(kChat, std::string(100, '[')), 400, "invalid_request_error", "levels"},
      {PostRequest(kChat, R"({"n":1,"n":2})"), 400, "invalid_request_error", "twice"},
      {PostRequest(kChat, "{\"n\":\"\xFF\"}"), 400, "invalid_request_error", "UTF-8"},
      {PostRequest(kChat, R"({"n":1e999})"), 400, "invalid_request_error", "double"},
      {PostRequest(kChat, R"({"model":"other","messages":[{"role":"user","content":"Hi"}]})"), 404,
       "not_found_error", "this server has: bytes"},
      {"GET /half\r\n\r\n", 400, "invalid_request_error", "not HTTP"},
      {"GET /health HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403, "permission_error", "Host"},
      {GetRequest("/health", "Origin: https://evil.example\r\n"), 403, "permission_error",
       "--http-origins"},
  };
  for (const Refused& one : cases) {
    const HttpAnswer answer = Fetch(gateway.address(), one.request);
    ASSERT_EQ(answer.status, one.status) << one.request << answer.body;
    const nlohmann::json error = ErrorIn(answer);
    EXPECT_EQ(error["type"], one.type) << one.request;
    EXPECT_THAT(error["message"].get<std::string>(), HasSubstr(one.message)) << one.request;
    EXPECT_TRUE(error.contains("param") && error.contains("code"));
    EXPECT_FALSE(answer.headers.contains("access-control-allow-origin"));
  }
  EXPECT_EQ(backend.started(), 0U);
  EXPECT_EQ(Fetch(gateway.address(), GetRequest("/health")).status, 200) << "it goes on";
}

TEST(GatewayGuard, WantsAKeyButForHealth) {
  FakeGatewayBackend backend;
  GatewayOptions options;
  options.guard.keys = {"k1"};
  const RunningGateway gateway(backend, std::move(options));
  for (const GatewayRoute& route : GatewayRoutes()) {
    std::string path(route.path);
    if (path.ends_with('*')) path.replace(path.size() - 1, 1, "x");
    const bool post = route.methods.starts_with("POST");
    const HttpAnswer answer =
        Fetch(gateway.address(), post ? PostRequest(path, "{}") : GetRequest(path));
    EXPECT_EQ(answer.status, route.open ? 200 : 401) << path;
    EXPECT_EQ(answer.headers.contains("www-authenticate"), !route.open) << path;
    const std::string key =
        route.form == ApiForm::kAnthropic ? "X-Api-Key: k1\r\n" : "Authorization: Bearer k1\r\n";
    EXPECT_NE(Fetch(gateway.address(), post ? PostRequest(path, "{}", key) : GetRequest(path, key))
                  .status,
              401)
        << path;
  }
  EXPECT_EQ(Fetch(gateway.address(), GetRequest("/nowhere")).status, 401);
  const HttpAnswer anthropic = Fetch(gateway.address(), PostRequest("/v1/messages", "{}"));
  EXPECT_EQ(nlohmann::json::parse(anthropic.body)["type"], "error");
  EXPECT_EQ(ErrorIn(anthropic)["type"], "authentication_error");
}

TEST(GatewayGuard, LetsPagesThatAreListedCall) {
  FakeGatewayBackend backend;
  GatewayOptions options;
  options.guard.keys = {"k1"};
  options.guard.origins = {"https://chat.example"};
  const RunningGateway gateway(backend, std::move(options));
  const std::string origin = "Origin: https://chat.example\r\n";
  const std::string asks = std::string("OPTIONS ") + kChat + " HTTP/1.1\r\nHost: localhost\r\n";
  const std::string method = "Access-Control-Request-Method: POST\r\n";
  const HttpAnswer preflight =
      Fetch(gateway.address(),
            asks + origin + method + "Access-Control-Request-Headers: x-stainless-os\r\n\r\n");
  EXPECT_EQ(preflight.status, 204) << "without a key";
  EXPECT_EQ(preflight.headers.at("access-control-allow-origin"), "https://chat.example");
  EXPECT_EQ(preflight.headers.at("access-control-allow-headers"), "x-stainless-os");
  EXPECT_THAT(preflight.headers.at("access-control-allow-methods"), HasSubstr("POST"));
  EXPECT_EQ(
      Fetch(gateway.address(), asks + "Origin: https://evil.example\r\n" + method + "\r\n").status,
      403);
  const HttpAnswer answer = Fetch(
      gateway.address(), PostRequest(kChat, kSimple, origin + "Authorization: Bearer k1\r\n"));
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.headers.at("access-control-allow-origin"), "https://chat.example");
  const HttpAnswer refused = Fetch(gateway.address(), PostRequest(kChat, kSimple, origin));
  EXPECT_EQ(refused.status, 401);
  EXPECT_EQ(refused.headers.at("access-control-allow-origin"), "https://chat.example")
      << "the page may read why";
  const HttpAnswer plain = Fetch(gateway.address(), asks + "\r\n");
  EXPECT_EQ(plain.status, 204);
  EXPECT_EQ(plain.headers.at("allow"), "POST, OPTIONS");
}

TEST(GatewayGuard, EchoesRequestIdsThatAreFitToBe) {
  FakeGatewayBackend backend;
  const RunningGateway gateway(backend);
  const auto id = [&](const std::string& header) {
    return Fetch(gateway.address(), GetRequest("/health", header)).headers.at("x-request-id");
  };
  EXPECT_EQ(id("X-Request-Id: mine-7\r\n"), "mine-7");
  EXPECT_THAT(id(""), HasSubstr("req_"));
  EXPECT_NE(id(""), id(""));
  EXPECT_THAT(id("X-Request-Id: a b\r\n"), HasSubstr("req_"));
  EXPECT_THAT(id("X-Request-Id: " + std::string(200, 'x') + "\r\n"), HasSubstr("req_"));
}

TEST(GatewayGuard, TellsWhenToComeAgain) {
  FakeGatewayBackend backend;
  const RunningGateway gateway(backend);
  backend.set_refusal(ErrorCode::kOverloaded, "the queue is full", 2.5);
  for (const char* more : {R"(,"stream":true)", ""}) {
    const std::string body =
        std::string(R"({"messages":[{"role":"user","content":"Hi"}])") + more + "}";
    const HttpAnswer answer = Fetch(gateway.address(), PostRequest(kChat, body));
    EXPECT_EQ(answer.status, 429);
    EXPECT_EQ(answer.headers.at("retry-after"), "3");
    EXPECT_EQ(ErrorIn(answer)["type"], "rate_limit_error");
    EXPECT_EQ(ErrorIn(answer)["message"], "the queue is full");
  }
  backend.set_refusal(ErrorCode::kInvalidArgument, "logit_bias: no such token", std::nullopt);
  const HttpAnswer wrong = Fetch(gateway.address(), PostRequest(kChat, kSimple));
  EXPECT_EQ(wrong.status, 400);
  EXPECT_EQ(ErrorIn(wrong)["param"], "logit_bias");
  EXPECT_EQ(ErrorIn(wrong)["code"], "invalid_argument");
  backend.set_serves(false);
  const HttpAnswer answer = Fetch(gateway.address(), PostRequest(kChat, kSimple));
  EXPECT_EQ(answer.status, 503);
  EXPECT_EQ(answer.headers.at("retry-after"), "1");
}

TEST(GatewayGuard, EndsAStreamThatFailsWithAnError) {
  FakeGatewayBackend backend;
  backend.set_answers(false);
  const RunningGateway gateway(backend);
  RawHttpClient client(gateway.address());
  client.Send(PostRequest(kChat, R"({"messages":[{"role":"user","content":"Hi"}],"stream":true})"));
  const FakeGatewayBackend::Started started = backend.Next();
  ASSERT_NE(started.events, nullptr);
  EXPECT_EQ(started.events->OnAccepted(12), Delivery::kSent);
  started.events->OnDelta({.choice = 0, .seq = 0, .text = "so far", .logprobs = {}});
  started.events->OnFailed(ErrorCode::kUnavailable, "rank 1 on host b is gone", std::nullopt);
  const HttpAnswer answer = client.Read();
  EXPECT_EQ(answer.status, 200);
  EXPECT_THAT(answer.body, HasSubstr("so far"));
  EXPECT_THAT(answer.body, HasSubstr("data: {\"error\":{\"message\":\"rank 1 on host b is gone\","
                                     "\"type\":\"server_error\""));
  EXPECT_THAT(answer.body, Not(HasSubstr("[DONE]")));
}

TEST(GatewayGuard, FreesWhatAClientThatLeavesHasAskedFor) {
  FakeGatewayBackend backend;
  backend.set_answers(false);
  const RunningGateway gateway(backend);
  size_t gone = 0;
  for (const char* more : {R"(,"stream":true)", ""}) {
    RawHttpClient client(gateway.address());
    client.Send(PostRequest(
        kChat, std::string(R"({"messages":[{"role":"user","content":"Hi"}])") + more + "}"));
    const FakeGatewayBackend::Started started = backend.Next();
    ASSERT_NE(started.events, nullptr);
    started.events->OnAccepted(12);
    client.Close();
    EXPECT_TRUE(backend.WaitGone(++gone));
    EXPECT_EQ(started.events->OnDelta({.choice = 0, .seq = 0, .text = "x", .logprobs = {}}),
              Delivery::kGone);
  }
}

TEST(GatewayGuard, BoundsWhatWaitsForASlowReader) {
  FakeGatewayBackend backend;
  backend.set_answers(false);
  GatewayOptions options;
  options.client_budget_bytes = int64_t{1} << 20;
  const RunningGateway gateway(backend, std::move(options));
  RawHttpClient client(gateway.address());
  client.SetReceiveBuffer(65536);
  client.Send(PostRequest(kChat, R"({"messages":[{"role":"user","content":"Hi"}],"stream":true})"));
  const FakeGatewayBackend::Started started = backend.Next();
  ASSERT_NE(started.events, nullptr);
  started.events->OnAccepted(12);
  const std::string text(size_t{10'000}, 'x');
  Delivery delivery = Delivery::kSent;
  int64_t sent = 0;
  while (delivery == Delivery::kSent && sent < (int64_t{64} << 20)) {
    delivery = started.events->OnDelta({.choice = 0, .seq = 0, .text = text, .logprobs = {}});
    sent += static_cast<int64_t>(text.size());
    if (sent % 100'000 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(delivery, Delivery::kOverBudget);
  EXPECT_LT(sent, int64_t{8} << 20);
  started.events->OnFailed(ErrorCode::kCancelled, "the client does not read", std::nullopt);
  EXPECT_THAT(client.Read().body, HasSubstr("the client does not read"));
}

TEST(GatewayGuard, BoundsWhatWaitsForAllSlowReaders) {
  FakeGatewayBackend backend;
  backend.set_answers(false);
  GatewayOptions options;
  options.client_budget_bytes = int64_t{64} << 20;
  options.http.total_unread_bytes = int64_t{6} << 20;
  const RunningGateway gateway(backend, std::move(options));
  struct Reader {
    explicit Reader(const RunningGateway& gateway) : client(gateway.address()) {
      client.SetReceiveBuffer(65536);
      client.Send(
          PostRequest(kChat, R"({"messages":[{"role":"user","content":"Hi"}],"stream":true})"));
    }
    RawHttpClient client;
  };
  // The second one gets most.
  std::vector<Reader> readers;
  std::vector<FakeGatewayBackend::Started> started;
  for (int i = 0; i < 3; ++i) {
    readers.emplace_back(gateway);
    started.push_back(backend.Next());
    ASSERT_NE(started.back().events, nullptr);
    started.back().events->OnAccepted(12);
  }
  const std::string text(size_t{20'000}, 'x');
  const auto send = [&](size_t to) {
    return started[to].events->OnDelta({.choice = 0, .seq = 0, .text = text, .logprobs = {}});
  };
  Delivery delivery = Delivery::kSent;
  for (int i = 0; i < 1000 && delivery == Delivery::kSent; ++i) {
    delivery = send(1);
    if (i < 100) {
      EXPECT_EQ(send(i % 2 == 0 ? 0 : 2), Delivery::kSent);
    }
    // Its thread has come so far.
    if (i % 10 == 0) {
      EXPECT_EQ(Fetch(gateway.address(), GetRequest("/health")).status, 200);
    }
  }
  EXPECT_EQ(delivery, Delivery::kGone);
  EXPECT_TRUE(backend.WaitGone(1));
  const std::string body = readers[1].client.Read().body;
  EXPECT_THAT(body, HasSubstr("keeps for all of them"));
  EXPECT_THAT(body, ::testing::EndsWith("\"code\":\"cancelled\"}}\n\n"));
  EXPECT_TRUE(readers[1].client.IsClosed());
  for (const size_t other : {size_t{0}, size_t{2}}) {
    EXPECT_EQ(send(other), Delivery::kSent);
    DoneContents done;
    done.choices.emplace_back();
    started[other].events->OnDone(done);
    EXPECT_THAT(readers[other].client.Read().body, ::testing::EndsWith("data: [DONE]\n\n"));
  }
}

TEST(GatewayGuard, SpeaksWhileALongPromptIsRead) {
  FakeGatewayBackend backend;
  backend.set_answers(false);
  GatewayOptions options;
  options.http.comment_time = std::chrono::milliseconds(50);
  const RunningGateway gateway(backend, std::move(options));
  RawHttpClient client(gateway.address());
  client.Send(PostRequest(kChat, R"({"messages":[{"role":"user","content":"Hi"}],"stream":true})"));
  const FakeGatewayBackend::Started started = backend.Next();
  ASSERT_NE(started.events, nullptr);
  started.events->OnAccepted(12);
  EXPECT_THAT(client.ReadUntil("\n: the prompt is being read\n\n"), HasSubstr("assistant"));
  EXPECT_THAT(client.ReadUntil(": the prompt is being read\n\n"), HasSubstr(": the"));
}

TEST(GatewayGuard, LogsOneLineARequestAndNoText) {
  FakeGatewayBackend backend;
  std::mutex mutex;
  std::vector<std::string> lines;
  GatewayOptions options;
  options.access_log = [&](const std::string& line) {
    const std::lock_guard lock(mutex);
    lines.push_back(line);
  };
  {
    const RunningGateway gateway(backend, std::move(options));
    Fetch(gateway.address(),
          PostRequest(kChat, R"({"messages":[{"role":"user","content":"secret"}],"user":"u1"})",
                      "X-Request-Id: r7\r\n"));
    Fetch(gateway.address(), GetRequest("/secret-path"));
    Fetch(gateway.address(), PostRequest(kChat, R"({"tools":[{"secret":1}]})"));
    Fetch(gateway.address(), "secret\r\n\r\n");
  }
  ASSERT_EQ(lines.size(), 4U);
  for (const std::string& line : lines) {
    EXPECT_THAT(line, Not(HasSubstr("secret"))) << line;
    EXPECT_THAT(nlohmann::json::parse(line)["peer"].get<std::string>(), HasSubstr("127.0.0.1:"));
  }
  const nlohmann::json first = nlohmann::json::parse(lines[0]);
  EXPECT_EQ(first["id"], "r7");
  EXPECT_EQ(first["route"], kChat);
  EXPECT_EQ(first["method"], "POST");
  EXPECT_EQ(first["status"], 200);
  EXPECT_EQ(first["tenant"], "u1");
  EXPECT_EQ(first["prompt_tokens"], 12);
  EXPECT_EQ(first["cached_tokens"], 4);
  EXPECT_EQ(first["completion_tokens"], 12);
  EXPECT_EQ(first["finish_reason"], "stop");
  EXPECT_TRUE(first["ms"].is_number() && first["first_token_ms"].is_number());
  EXPECT_THAT(first["time"].get<std::string>(), HasSubstr("T"));
  const nlohmann::json second = nlohmann::json::parse(lines[1]);
  EXPECT_EQ(second["route"], "-");
  EXPECT_EQ(second["status"], 404);
  EXPECT_EQ(second["error"], "not_found");
  const nlohmann::json third = nlohmann::json::parse(lines[2]);
  EXPECT_EQ(third["status"], 400);
  EXPECT_EQ(third["error"], "unimplemented");
  const nlohmann::json fourth = nlohmann::json::parse(lines[3]);
  EXPECT_EQ(fourth["method"], "-");
  EXPECT_EQ(fourth["route"], "-");
  EXPECT_EQ(fourth["status"], 400);
  EXPECT_EQ(fourth["error"], "invalid_request");
}

TEST(GatewayGuard, LogsOneLineARequestWhoseClientHasLeft) {
  constexpr size_t kRequests = 20;
  FakeGatewayBackend backend;
  std::mutex mutex;
  std::vector<nlohmann::json> lines;
  GatewayOptions options;
  options.access_log = [&](const std::string& line) {
    const std::lock_guard lock(mutex);
    lines.push_back(nlohmann::json::parse(line));
  };
  const RunningGateway gateway(backend, std::move(options));
  const auto wait_for = [&](size_t count) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (std::chrono::steady_clock::now() < until) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      const std::lock_guard lock(mutex);
      if (lines.size() >= count) break;
    }
    const std::lock_guard lock(mutex);
    EXPECT_EQ(lines.size(), count);
    return lines.empty() ? nlohmann::json() : lines.back();
  };
  // Whole requests, which take longer to be read than their clients stay.
  const std::string text(size_t{1} << 20, 'x');
  for (size_t i = 0; i < kRequests; ++i) {
    RawHttpClient client(gateway.address());
    client.Send(
        PostRequest(kChat, R"({"messages":[{"role":"user","content":")" + text + R"("}]})"));
    client.Close();
  }
  EXPECT_EQ(wait_for(kRequests)["error"], "client_gone");
  // Half a request.
  for (const bool reset : {false, true}) {
    RawHttpClient client(gateway.address());
    client.Send(
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
        "Content-Type: application/json\r\nContent-Length: 9\r\n\r\n");
    EXPECT_THAT(client.ReadUntil("\r\n\r\n"), HasSubstr("100 Continue"));
    reset ? client.Reset() : client.Close();
    const nlohmann::json line = wait_for(kRequests + (reset ? 2 : 1));
    EXPECT_EQ(line["status"], 400);
    EXPECT_EQ(line["route"], "/v1/completions");
  }
}

TEST(GatewayGuard, CountsAndLogsTheCodeThatTheClientIsTold) {
  FakeGatewayBackend backend;
  std::mutex mutex;
  std::vector<nlohmann::json> lines;
  GatewayOptions options;
  options.guard.keys = {"k"};
  options.http.request.body_bytes = 1000;
  options.access_log = [&](const std::string& line) {
    const std::lock_guard lock(mutex);
    lines.push_back(nlohmann::json::parse(line));
  };
  const RunningGateway gateway(backend, std::move(options));
  const std::string key = "Authorization: Bearer k\r\n";
  const std::string long_body = R"({"x":")" + std::string(2000, 'x') + R"("})";
  const std::string strange = "POST " + std::string(kChat) + " HTTP/1.1\r\nHost: localhost\r\n" +
                              key + "Content-Type: text/plain\r\nContent-Length: 0\r\n\r\n";
  const std::vector<std::string> requests = {
      PostRequest(kChat, kSimple),
      PostRequest(kChat, kSimple, key + "Origin: https://evil.example\r\n"),
      GetRequest(kChat, key),
      GetRequest("/none", key),
      strange,
      PostRequest(kChat, long_body, key),
      std::string(20'000, 'M') + " / HTTP/1.1\r\nHost: localhost\r\n\r\n",
      std::string(10'000, 'M') + " /health HTTP/1.1\r\nHost: localhost\r\n\r\n"};
  for (const std::string& request : requests) {
    const HttpAnswer answer = Fetch(gateway.address(), request);
    const nlohmann::json line = [&] {
      const std::lock_guard lock(mutex);
      return lines.back();
    }();
    EXPECT_EQ(line["status"], answer.status);
    EXPECT_EQ(line["error"], ErrorIn(answer)["code"]);
    EXPECT_EQ(line["id"], answer.headers.at("x-request-id"));
    EXPECT_LT(line["method"].get<std::string>().size(), 8U);
  }
  const std::string figures = Fetch(gateway.address(), GetRequest("/metrics", key)).body;
  for (const char* code : {"invalid_api_key", "invalid_request", "not_found", "too_large"}) {
    EXPECT_THAT(figures, HasSubstr(fmt::format("code=\"{}\"", code)));
  }
  const HttpAnswer anthropic =
      Fetch(gateway.address(), PostRequest("/v1/messages", long_body, key));
  EXPECT_EQ(anthropic.status, 413);
  EXPECT_EQ(ErrorIn(anthropic)["type"], "request_too_large") << "in Anthropic's form";
}

}  // namespace
}  // namespace tandem::frontend
