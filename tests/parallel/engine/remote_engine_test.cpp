#include "parallel/engine/remote_engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <sstream>
#include <string>
#include <thread>

#include "parallel/engine/engine_server.h"

namespace tandem::parallel {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

constexpr kv_store::SocketLimits kFast{.heartbeat = milliseconds(50), .silence = milliseconds(500)};

class IdleEngine : public Engine {
 public:
  absl::StatusOr<RequestId> Submit(EngineRequest, EngineSink) override { return RequestId{1}; }
  void Cancel(RequestId) override {}
  absl::StatusOr<EngineStatus> Status() override { return EngineStatus(); }
  absl::Status Health() override { return absl::OkStatus(); }
};

/// A server that says welcome and then what it is told to, as one whose process can be stopped.
class StoppableServer {
 public:
  StoppableServer() {
    socket_.set(zmq::sockopt::linger, 0);
    kv_store::BeCurveServer(socket_, keys_.server);
    socket_.bind(MakeLocalEndpoint());
    endpoint_ = socket_.get(zmq::sockopt::last_endpoint);
    thread_ = std::thread([this] { Run(); });
  }
  ~StoppableServer() {
    end_ = true;
    thread_.join();
  }

  void Stop() { stopped_ = true; }
  void Resume() { stopped_ = false; }
  RemoteEngine::Options Options() const {
    return {.endpoint = endpoint_,
            .who = "rank 0 on host n0",
            .epoch = 4,
            .server_key = keys_.server.public_key,
            .keys = keys_.client,
            .limits = kFast};
  }

 private:
  void Run() {
    while (!end_) {
      std::this_thread::sleep_for(milliseconds(5));
      allowed_.Answer();
      if (stopped_) continue;
      for (auto parts = kv_store::TryReceive(socket_); !parts.empty();
           parts = kv_store::TryReceive(socket_)) {
        client_ = parts[0].to_string();
        kv_store::TrySend(socket_, client_, EncodeLinkMessage(LinkWelcome{.epoch = 4}));
      }
      if (!client_.empty()) kv_store::TrySend(socket_, client_, EncodeLinkMessage(LinkPing{}));
    }
  }

  const EngineLinkKeys keys_ = MakeEngineLinkKeys();
  zmq::context_t context_;
  kv_store::AllowList allowed_{context_, {{keys_.client.public_key, "gateway"}}};
  zmq::socket_t socket_{context_, zmq::socket_type::router};
  std::string endpoint_;
  std::string client_;
  std::atomic<bool> stopped_ = false;
  std::atomic<bool> end_ = false;
  std::thread thread_;
};

std::unique_ptr<RemoteEngine> MustConnect(const RemoteEngine::Options& options) {
  auto engine = RemoteEngine::Connect(options, {});
  EXPECT_TRUE(engine.ok()) << engine.status();
  return *std::move(engine);
}

TEST(RemoteEngine, AServerThatIsStoppedIsDeadAndNamed) {
  StoppableServer server;
  const auto engine = MustConnect(server.Options());
  server.Stop();
  // It waits for an answer, and gets the reason why there is none.
  EngineRequest request;
  request.prompt = {1};
  const auto submitted = engine->Submit(std::move(request), {});
  EXPECT_EQ(submitted.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Message(submitted.status()), HasSubstr("rank 0 on host n0 has sent nothing for"));
  EXPECT_EQ(engine->Health(), submitted.status());
}

TEST(RemoteEngine, AServerOfAnotherEpochIsRefusedByNumber) {
  StoppableServer server;
  RemoteEngine::Options options = server.Options();
  options.epoch = 5;
  const auto engine = RemoteEngine::Connect(options, {});
  EXPECT_EQ(engine.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(engine.status()),
              HasSubstr("rank 0 on host n0 belongs to epoch 4, expected 5"));
}

TEST(RemoteEngine, TellsOnceThatTheServerIsGone) {
  StoppableServer server;
  RemoteEngine::Options options = server.Options();
  std::atomic<int> gone = 0;
  options.on_gone = [&gone] { ++gone; };
  const auto engine = MustConnect(options);
  std::this_thread::sleep_for(milliseconds(300));
  EXPECT_EQ(gone, 0);
  server.Stop();
  while (engine->Health().ok()) std::this_thread::sleep_for(milliseconds(5));
  engine->MarkDead(Unavailable("later"));
  std::this_thread::sleep_for(milliseconds(100));
  EXPECT_EQ(gone, 1);
}

TEST(RemoteEngine, AServerThatIsStoppedForAWhileGoesOn) {
  StoppableServer server;
  const auto engine = MustConnect(server.Options());
  for (int i = 0; i < 10; ++i) {
    server.Stop();
    std::this_thread::sleep_for(milliseconds(150));
    server.Resume();
    std::this_thread::sleep_for(milliseconds(50));
  }
  EXPECT_TRUE(engine->Health().ok()) << engine->Health();
}

TEST(RemoteEngine, WhatComesOfASilentServerIsNotTheReason) {
  StoppableServer server;
  RemoteEngine::Options options = server.Options();
  options.limits.silence = milliseconds(60'000);
  const auto engine = MustConnect(options);
  server.Stop();
  std::this_thread::sleep_for(milliseconds(600));
  engine->MarkDead(Unavailable("rank 1 ended with exit status 1"));
  while (engine->Health().ok()) std::this_thread::sleep_for(milliseconds(5));
  EXPECT_THAT(Message(engine->Health()), HasSubstr("rank 0 on host n0 has sent nothing for"));
}

TEST(RemoteEngine, ASupervisorsReasonIsBelievedWhileTheServerSpeaks) {
  StoppableServer server;
  RemoteEngine::Options options = server.Options();
  options.limits.heartbeat = milliseconds(2000);
  const auto engine = MustConnect(options);
  engine->MarkDead(Unavailable("rank 1 was ended by signal 9"));
  while (engine->Health().ok()) std::this_thread::sleep_for(milliseconds(5));
  EXPECT_EQ(Message(engine->Health()), "rank 1 was ended by signal 9");
}

TEST(EngineServer, PingsAnIdleClient) {
  IdleEngine idle;
  const EngineLinkKeys keys = MakeEngineLinkKeys();
  auto server = EngineServer::Create({.address = {.endpoint = MakeLocalEndpoint(),
                                                  .keys = keys.server,
                                                  .client_key = keys.client.public_key},
                                      .limits = kFast},
                                     idle);
  ASSERT_TRUE(server.ok()) << server.status();
  // Its silence would be noticed in a second; one heartbeat is as long as the server's looks are
  // apart.
  const auto engine =
      MustConnect({.endpoint = (*server)->endpoint(),
                   .server_key = keys.server.public_key,
                   .keys = keys.client,
                   .limits = {.heartbeat = milliseconds(200), .silence = milliseconds(1000)}});
  std::this_thread::sleep_for(milliseconds(3000));
  EXPECT_TRUE(engine->Health().ok()) << engine->Health();
}

TEST(EngineLinkKeys, TravelAsLines) {
  const EngineLinkKeys keys = MakeEngineLinkKeys();
  std::istringstream in(LinkText("ipc://@x", keys));
  const auto link = ReadLink(in);
  ASSERT_TRUE(link.ok()) << link.status();
  EXPECT_EQ(link->endpoint, "ipc://@x");
  EXPECT_EQ(link->keys.secret_key, keys.server.secret_key);
  EXPECT_EQ(link->client_key, keys.client.public_key);
  std::istringstream nothing;
  EXPECT_EQ(ReadLink(nothing).status().code(), absl::StatusCode::kNotFound);
  std::istringstream no_keys("ipc://@x\na\nb\nc\n");
  EXPECT_EQ(ReadLink(no_keys).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tandem::parallel
