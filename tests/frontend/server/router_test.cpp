#include "frontend/server/router.h"

#include <gtest/gtest.h>

#include <thread>

#include "tests/support/frame_client.h"
#include "tests/support/served_engine.h"

namespace tandem::frontend {
namespace {

using testing::ChatFrame;
using testing::FrameClient;
using testing::ServedEngine;
using Json = nlohmann::json;
using std::chrono::milliseconds;

/// A router, and what its thread would do.
struct Port {
  explicit Port(RouterOptions options = {}) {
    options.endpoint = "tcp://127.0.0.1:*";
    router = *Router::Bind(options, R"({"v":1,"id":null,"type":"error","code":"overloaded"})");
  }
  /// The next message within a second.
  std::optional<Router::Incoming> Receive() {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(1);
    while (std::chrono::steady_clock::now() < end) {
      router->Wait(/*wake_fd=*/-1, milliseconds(10));
      router->Flush();
      if (auto message = router->Receive()) return message;
    }
    return std::nullopt;
  }
  std::unique_ptr<Router> router;
};

TEST(Router, ClientsTakeTurns) {
  Port port;
  FrameClient flood(port.router->endpoint(), {.identity = "flood"});
  FrameClient other(port.router->endpoint(), {.identity = "other"});
  flood.SendRaw({"here"});
  other.SendRaw({"here"});
  ASSERT_TRUE(port.Receive());
  ASSERT_TRUE(port.Receive());
  for (int i = 0; i < 1000; ++i) flood.SendRaw({"flood"});
  other.SendRaw({"hello"});
  std::this_thread::sleep_for(milliseconds(300));
  int before = 0;
  for (auto message = port.Receive(); message && message->client != "other";
       message = port.Receive()) {
    ++before;
  }
  EXPECT_LT(before, 10);
}

TEST(Router, SmallMessagesPassLargeOnes) {
  Port port;
  constexpr int kClients = 8;
  std::vector<std::unique_ptr<FrameClient>> clients;
  for (int i = 0; i < kClients; ++i) {
    clients.push_back(std::make_unique<FrameClient>(port.router->endpoint()));
    clients.back()->SendRaw({"here"});
    ASSERT_TRUE(port.Receive());
  }
  FrameClient other(port.router->endpoint(), {.identity = "other"});
  other.SendRaw({"here"});
  ASSERT_TRUE(port.Receive());
  for (const auto& client : clients) {
    for (int i = 0; i < 3; ++i) client->SendRaw({std::string(500'000, 'x')});
  }
  std::this_thread::sleep_for(milliseconds(300));
  ASSERT_TRUE(port.Receive()) << "one is at work";
  for (int i = 0; i < 20; ++i) other.SendRaw({"hello"});
  std::this_thread::sleep_for(milliseconds(300));
  int before = 0;
  for (int heard = 0; heard < 20;) {
    const auto message = port.Receive();
    ASSERT_TRUE(message);
    message->client == "other" ? ++heard : ++before;
  }
  EXPECT_LE(before, 1);
}

TEST(Router, TimeIsUpAfterOneOfThoseWhoSayNothing) {
  Port port;
  FrameClient first(port.router->endpoint());
  FrameClient second(port.router->endpoint());
  FrameClient third(port.router->endpoint());
  // Greetings are no messages either.
  for (int64_t ready = 0; ready < 3;) {
    port.router->Wait(/*wake_fd=*/-1, milliseconds(1000));
    EXPECT_FALSE(port.router->Receive(std::chrono::steady_clock::now()));
    EXPECT_LE(port.router->clients(), ready + 1) << "one is looked at in no time";
    ready = port.router->clients();
    std::this_thread::sleep_for(milliseconds(50));  // for bytes of all to be there
  }
}

TEST(Router, WhoDoesNotReadIsNotListenedToAndNotForgotten) {
  Port port({.pause_bytes = 100'000});
  FrameClient client(port.router->endpoint(),
                     {.identity = "sleeper", .receive_queue = 1, .kernel_bytes = 4096});
  const std::string answer = "\"" + std::string(50'000, 'x') + "\"";
  for (int i = 0; i < 1000; ++i) client.SendRaw({"please"});
  int64_t most = 0;
  int answered = 0;
  while (port.Receive()) {
    ASSERT_EQ(port.router->Send("sleeper", answer), Delivery::kSent);
    most = std::max(most, port.router->waiting_bytes());
    ++answered;
  }
  EXPECT_LT(answered, 900) << "it is not listened to for long";
  EXPECT_LE(most, 100'000 + 51'000);
  EXPECT_TRUE(port.router->TakeVanished().empty());
  client.Vanish();
  port.Receive();
  EXPECT_EQ(port.router->TakeVanished(), std::vector<std::string>{"sleeper"});
  EXPECT_EQ(port.router->waiting_bytes(), 0);
  EXPECT_EQ(port.router->clients(), 0);
}

TEST(Router, ANewcomerOfTheSameNameTakesThePlace) {
  Port port;
  FrameClient first(port.router->endpoint(), {.identity = "alice", .reconnects = false});
  first.SendRaw({"1"});
  EXPECT_EQ(port.Receive()->frame, "1");
  FrameClient second(port.router->endpoint(), {.identity = "alice"});
  second.SendRaw({"2"});
  EXPECT_EQ(port.Receive()->frame, "2");
  first.Vanish();
  EXPECT_FALSE(port.Receive());
  EXPECT_TRUE(port.router->TakeVanished().empty()) << "alice is there";
  EXPECT_EQ(port.router->clients(), 1);
  EXPECT_EQ(port.router->Send("alice", R"({"v":1})"), Delivery::kSent);
  EXPECT_TRUE(second.Receive());
}

TEST(Router, NamesThatComeAndGoLeaveNothing) {
  Port port;
  for (int i = 0; i < 300; ++i) {
    FrameClient client(port.router->endpoint(), {.identity = fmt::format("client {}", i)});
    client.SendRaw({"x"});
    ASSERT_TRUE(port.Receive()) << i;
    client.Vanish();
  }
  size_t gone = 0;
  testing::Eventually([&] {
    port.Receive();
    gone += port.router->TakeVanished().size();
    return port.router->clients() == 0;
  });
  EXPECT_EQ(gone, 300U);
}

TEST(Router, ClientsBeyondTheLimitAreToldSo) {
  Port port({.clients = 2});
  FrameClient one(port.router->endpoint());
  FrameClient two(port.router->endpoint());
  one.SendRaw({"x"});
  two.SendRaw({"x"});
  ASSERT_TRUE(port.Receive());
  ASSERT_TRUE(port.Receive());
  FrameClient three(port.router->endpoint());
  three.SendRaw({"x"});
  EXPECT_FALSE(port.Receive()) << "it is not heard";
  EXPECT_EQ((*three.Receive())["code"], "overloaded");
  EXPECT_EQ(port.router->clients(), 2);
}

TEST(Router, OneFrameIsTakenWhateverItsSizeAndOthersWithinTheBudget) {
  Port port({.client_budget_bytes = 1000, .pause_bytes = 1 << 20});
  FrameClient client(port.router->endpoint(),
                     {.identity = "sleeper", .receive_queue = 1, .kernel_bytes = 4096});
  client.SendRaw({"x"});
  ASSERT_TRUE(port.Receive());
  const std::string large = "\"" + std::string(20 << 20, 'x') + "\"";
  EXPECT_EQ(port.router->Send("sleeper", large), Delivery::kSent);
  EXPECT_EQ(port.router->Send("sleeper", "{}"), Delivery::kOverBudget);
  EXPECT_EQ(port.router->Send("nobody", "{}"), Delivery::kGone);
}

}  // namespace
}  // namespace tandem::frontend
