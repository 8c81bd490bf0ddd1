#include "frontend/client/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "tests/support/served_engine.h"

namespace tandem::frontend {
namespace {

using ::testing::HasSubstr;
using testing::ServedEngine;

std::unique_ptr<Client> Connected(const ServedEngine& served) {
  absl::StatusOr<std::unique_ptr<Client>> client = Client::Connect({.endpoint = served.endpoint()});
  EXPECT_TRUE(client.ok()) << client.status();
  return *std::move(client);
}

TEST(Client, StreamsAnswers) {
  ServedEngine served;
  const auto client = Connected(served);
  std::string streamed;
  const auto answer =
      client->Chat({{"user", "hello"}}, {}, [&](std::string_view text) { streamed += text; });
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->text, "You said: hello");
  EXPECT_EQ(streamed, answer->text);
  EXPECT_EQ(answer->reason, parallel::FinishReason::kStop);
  EXPECT_EQ(answer->usage.completion_tokens, 15);
  EXPECT_EQ(client->Complete("raw", {}, {})->text, "You said: raw");
  EXPECT_EQ(client->Complete(std::vector<int32_t>{104, 105}, {}, {})->text, "You said: hi");
}

TEST(Client, SendsEveryParameter) {
  ServedEngine served;
  const auto client = Connected(served);
  GenerationParams params;
  params.max_tokens = 4;
  params.seed = 99;
  params.stop = {"zz"};
  params.min_tokens = 3;
  params.sampling = {.temperature = 0.5F,
                     .top_k = 3,
                     .top_p = 0.5F,
                     .min_p = 0.25F,
                     .repetition_penalty = 1.5F,
                     .presence_penalty = 0.5F,
                     .frequency_penalty = -0.25F,
                     .logit_bias = {{7, 2.0F}}};
  const auto answer = client->Chat({{"user", "x"}}, params, {});
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->reason, parallel::FinishReason::kLength);
  EXPECT_EQ(answer->seed, 99U);
  const parallel::EngineRequest request = served.engine.requests().at(0);
  EXPECT_EQ(request.max_tokens, 4);
  EXPECT_EQ(request.sampling.top_k, 3);
  EXPECT_EQ(request.sampling.top_p, 0.5F);
  EXPECT_EQ(request.sampling.min_p, 0.25F);
  EXPECT_EQ(request.sampling.repetition_penalty, 1.5F);
  EXPECT_EQ(request.sampling.presence_penalty, 0.5F);
  EXPECT_EQ(request.sampling.frequency_penalty, -0.25F);
  EXPECT_EQ(request.sampling.logit_bias, params.sampling.logit_bias);
  EXPECT_EQ(request.sampling.min_tokens, 3);
}

TEST(Client, AnInterruptStopsTheAnswerOnly) {
  ServedEngine served;
  const auto client = Connected(served);
  client->Interrupt();  // before an answer it does nothing
  std::thread interrupter;
  const auto answer = client->Chat({{"user", "endless"}}, {}, [&](std::string_view) {
    if (!interrupter.joinable()) interrupter = std::thread([&] { client->Interrupt(); });
  });
  interrupter.join();
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->reason, parallel::FinishReason::kCancelled);
  EXPECT_THAT(answer->text, HasSubstr("o"));
  EXPECT_EQ(served.engine.running(), 0);
  EXPECT_EQ(client->Chat({{"user", "next"}}, {}, {})->text, "You said: next");
}

TEST(Client, GivesTheServersErrorsWithTheirCode) {
  ServedEngine served({}, std::chrono::microseconds(0), /*context=*/50);
  const auto client = Connected(served);
  const auto status = client->Chat({{"user", std::string(100, 'x')}}, {}, {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(status), HasSubstr("holds 50"));
  EXPECT_EQ(client->Chat({}, {}, {}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(Client, PingsAndReadsTheStatus) {
  ServedEngine served;
  const auto client = Connected(served);
  EXPECT_TRUE(*client->Ping());
  const auto status = client->ServerStatus();
  ASSERT_TRUE(status.ok());
  EXPECT_EQ((*status)["model"]["name"], "bytes");
}

TEST(Client, SaysThatNobodyIsThere) {
  const auto nobody =
      Client::Connect({.endpoint = "tcp://127.0.0.1:1", .timeout = std::chrono::milliseconds(100)});
  EXPECT_EQ(nobody.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Message(nobody.status()), HasSubstr("tcp://127.0.0.1:1"));
  const auto wrong = Client::Connect({.endpoint = "nonsense"});
  EXPECT_EQ(wrong.status().code(), absl::StatusCode::kInvalidArgument);
  for (const char* port : {"0", "65536", "99999999999999999999"}) {
    const auto none = Client::Connect({.endpoint = fmt::format("tcp://127.0.0.1:{}", port)});
    EXPECT_EQ(none.status(), InvalidArgument("cannot connect to \"tcp://127.0.0.1:{}\": '{}' is no "
                                             "port from 1 to 65535",
                                             port, port));
  }
  const auto folder = Client::Connect({.endpoint = "ipc:///tmp"});
  EXPECT_EQ(folder.status(),
            InvalidArgument("cannot connect to \"ipc:///tmp\": /tmp is a folder, and no socket; "
                            "name the one on which a server listens"));
}

TEST(Client, NoticesThatTheServerEnds) {
  auto served = std::make_unique<ServedEngine>();
  const auto client = *Client::Connect(
      {.endpoint = served->endpoint(), .timeout = std::chrono::milliseconds(1000)});
  std::thread ender;
  const auto answer = client->Chat({{"user", "endless"}}, {}, [&](std::string_view) {
    if (!ender.joinable()) ender = std::thread([&] { served->service.Stop(); });
  });
  ender.join();
  EXPECT_EQ(answer.status().code(), absl::StatusCode::kUnavailable);
  served.reset();
  EXPECT_EQ(client->Chat({{"user", "x"}}, {}, {}).status().code(), absl::StatusCode::kUnavailable);
}

TEST(Client, WaitsAsLongAsTheServerIsAlive) {
  ServedEngine served;
  const auto client =
      Client::Connect({.endpoint = served.endpoint(), .timeout = std::chrono::milliseconds(300)});
  ASSERT_TRUE(client.ok()) << client.status();
  served.engine.Hold(true);
  std::thread waker([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(1000));
    served.engine.Hold(false);
  });
  EXPECT_EQ((*client)->Chat({{"user", "slow"}}, {}, {})->text, "You said: slow");
  waker.join();
}

}  // namespace
}  // namespace tandem::frontend
