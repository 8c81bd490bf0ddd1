#include "frontend/service/request_preparer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <condition_variable>
#include <future>
#include <mutex>

#include "tests/support/frame_client.h"
#include "tests/support/served_engine.h"

namespace tandem::frontend {
namespace {

using testing::ChatFrame;
using testing::Eventually;
using testing::FakeEngine;
using testing::FakeTextModel;
using testing::FrameClient;
using testing::ServedEngine;
using Json = nlohmann::json;

Preparation RequestOf(const std::string& client, uint64_t key, size_t bytes) {
  Preparation preparation;
  preparation.key = key;
  preparation.client = client;
  preparation.request.input = std::string(bytes, 'x');
  return preparation;
}

/// A model that encodes once it may.
class GatedModel final : public FakeTextModel {
 public:
  GatedModel() : FakeTextModel(/*context=*/1 << 20) {}
  absl::StatusOr<std::vector<int32_t>> EncodeText(std::string_view text) const override {
    std::unique_lock lock(mutex_);
    ++encoding_;
    changed_.wait(lock, [&] { return open_; });
    return FakeTextModel::EncodeText(text);
  }
  void Open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  bool encodes() const {
    const std::lock_guard lock(mutex_);
    return encoding_ > 0;
  }

 private:
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  mutable int encoding_ = 0;
  bool open_ = false;
};

struct PreparerAtWork {
  explicit PreparerAtWork(const RequestPreparerLimits& limits = {.short_bytes = 0})
      : engine(testing::EchoScript), preparer(engine, model, mailbox, limits) {
    engine.Hold(true);
  }
  ~PreparerAtWork() { model.Open(); }
  /// Keys of so many requests, in the order in which they were prepared.
  std::vector<uint64_t> Prepared(size_t count) {
    std::vector<uint64_t> keys;
    Eventually([&] {
      for (const Mailbox::Event& event : mailbox->Take()) keys.push_back(event.key);
      return keys.size() >= count;
    });
    return keys;
  }

  GatedModel model;
  FakeEngine engine;
  std::shared_ptr<Mailbox> mailbox = std::make_shared<Mailbox>();
  RequestPreparer preparer;
};

TEST(RequestPreparer, AShortRequestPassesTheLongOnesOfOthers) {
  PreparerAtWork work;
  ASSERT_TRUE(work.preparer.Add(RequestOf("first", 1, 10)).ok());
  ASSERT_TRUE(Eventually([&] { return work.model.encodes(); }));
  for (uint64_t key = 2; key < 5; ++key) {
    ASSERT_TRUE(work.preparer.Add(RequestOf("flood", key, 100'000)).ok());
  }
  ASSERT_TRUE(work.preparer.Add(RequestOf("other", 5, 1000)).ok());
  ASSERT_TRUE(work.preparer.Add(RequestOf("other", 6, 10)).ok());
  ASSERT_TRUE(work.preparer.Add(RequestOf("third", 7, 150'000)).ok());
  work.model.Open();
  // "third" is longer than the first of "flood", and comes before its second.
  EXPECT_EQ(work.Prepared(7), (std::vector<uint64_t>{1, 5, 6, 2, 7, 3, 4}));
}

/// A model that takes its time with long texts only.
class LongGatedModel final : public FakeTextModel {
 public:
  LongGatedModel() : FakeTextModel(/*context=*/1 << 20), opened_(open_.get_future().share()) {}
  absl::StatusOr<std::vector<int32_t>> EncodeText(std::string_view text) const override {
    if (text.size() > 1000) opened_.wait();
    return FakeTextModel::EncodeText(text);
  }
  void Open() { open_.set_value(); }

 private:
  std::promise<void> open_;
  const std::shared_future<void> opened_;
};

TEST(RequestPreparer, AShortRequestDoesNotWaitForALongOneThatHasBegun) {
  LongGatedModel model;
  FakeEngine engine(testing::EchoScript);
  engine.Hold(true);
  const auto mailbox = std::make_shared<Mailbox>();
  RequestPreparer preparer(engine, model, mailbox, {.short_bytes = 5000});
  const auto prepared = [&](size_t count) {
    std::vector<uint64_t> keys;
    Eventually([&] {
      for (const Mailbox::Event& event : mailbox->Take()) keys.push_back(event.key);
      return keys.size() >= count;
    });
    return keys;
  };
  ASSERT_TRUE(preparer.Add(RequestOf("flood", 1, 10'000)).ok());
  ASSERT_TRUE(preparer.Add(RequestOf("other flood", 2, 10'000)).ok());
  ASSERT_TRUE(preparer.Add(RequestOf("flood", 3, 10)).ok());
  // The thread for whatever comes has begun a long one by now, or takes a short one first.
  ASSERT_TRUE(preparer.Add(RequestOf("short", 4, 10)).ok());
  ASSERT_TRUE(preparer.Add(RequestOf("short", 5, 10)).ok());
  std::vector<uint64_t> keys = prepared(2);
  model.Open();
  for (const uint64_t key : prepared(5 - keys.size())) keys.push_back(key);
  ASSERT_EQ(keys.size(), 5U);
  const auto place = [&](uint64_t key) { return std::find(keys.begin(), keys.end(), key); };
  EXPECT_LT(place(4), place(2)) << "before what was not let go";
  EXPECT_LT(place(5), place(2));
  EXPECT_LT(place(1), place(3)) << "those of one client stay in order";
  EXPECT_LT(place(4), place(5));
}

TEST(RequestPreparer, BytesThatWaitAreBounded) {
  PreparerAtWork work({.client_bytes = 10'000, .total_bytes = 20'000, .short_bytes = 0});
  ASSERT_TRUE(work.preparer.Add(RequestOf("first", 1, 10)).ok());
  ASSERT_TRUE(Eventually([&] { return work.model.encodes(); }));
  EXPECT_TRUE(work.preparer.Add(RequestOf("a", 2, 15'000)).ok()) << "one may be of any size";
  const absl::Status refused = work.preparer.Add(RequestOf("a", 3, 10));
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(work.preparer.Add(RequestOf("b", 4, 1000)).ok());
  EXPECT_TRUE(work.preparer.Add(RequestOf("b", 5, 100)).ok());
  EXPECT_TRUE(work.preparer.Add(RequestOf("c", 6, 30'000)).ok());
  EXPECT_FALSE(work.preparer.Add(RequestOf("d", 7, 10)).ok()) << "twice the total";
  EXPECT_TRUE(work.preparer.Drop("c", 6));
  EXPECT_TRUE(work.preparer.Add(RequestOf("d", 7, 10)).ok());
}

TEST(RequestPreparer, WhatIsDroppedDoesNotReachTheEngine) {
  PreparerAtWork work;
  ASSERT_TRUE(work.preparer.Add(RequestOf("a", 1, 10)).ok());
  ASSERT_TRUE(Eventually([&] { return work.model.encodes(); }));
  ASSERT_TRUE(work.preparer.Add(RequestOf("a", 2, 10)).ok());
  ASSERT_TRUE(work.preparer.Add(RequestOf("a", 3, 10)).ok());
  EXPECT_TRUE(work.preparer.Drop("a", 2)) << "it has not begun";
  EXPECT_FALSE(work.preparer.Drop("a", 1)) << "its end is to come";
  work.model.Open();
  EXPECT_EQ(work.Prepared(2), (std::vector<uint64_t>{1, 3}));
  EXPECT_EQ(work.engine.submitted(), 1);
}

/// An engine that does not answer as long as it hangs.
class HangingEngine final : public parallel::Engine {
 public:
  explicit HangingEngine(parallel::Engine& engine) : engine_(engine) {}
  absl::StatusOr<parallel::RequestId> Submit(parallel::EngineRequest request,
                                             parallel::EngineSink sink) override {
    Wait();
    return engine_.Submit(std::move(request), std::move(sink));
  }
  void Cancel(parallel::RequestId id) override { engine_.Cancel(id); }
  absl::StatusOr<parallel::EngineStatus> Status() override {
    Wait();
    return engine_.Status();
  }
  absl::Status Health() override { return engine_.Health(); }
  void Hang(bool hangs) {
    const std::lock_guard lock(mutex_);
    hangs_ = hangs;
    changed_.notify_all();
  }

 private:
  void Wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !hangs_; });
  }
  parallel::Engine& engine_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool hangs_ = false;
};

struct HangingServer {
  explicit HangingServer(ServiceOptions options = {})
      : service(std::move(options), hanging, model) {
    ServerOptions server_options;
    server_options.endpoint = "tcp://127.0.0.1:*";
    server = *Server::Create(server_options, service);
    thread = std::thread([this] { (void)server->Run(); });
  }
  ~HangingServer() {
    hanging.Hang(false);
    service.Stop();
    thread.join();
  }
  FakeTextModel model;
  FakeEngine engine{testing::EchoScript, std::chrono::microseconds(200)};
  HangingEngine hanging{engine};
  Service service;
  std::unique_ptr<Server> server;
  std::thread thread;
};

Json AnswerTo(FrameClient& client, const std::string& id, const std::string& type) {
  for (;;) {
    const std::optional<Json> frame = client.Receive();
    if (!frame) return nullptr;
    if ((*frame)["id"] == id && (*frame)["type"] == type) return *frame;
  }
}

TEST(ServerOfAHangingEngine, AnswersPingsAndStatusAndDeadlines) {
  HangingServer served;
  FrameClient client(served.server->endpoint());
  client.Send({{"v", 1}, {"type", "status"}, {"id", "s1"}});
  EXPECT_EQ(AnswerTo(client, "s1", "status")["engine"]["answers"], true);
  served.hanging.Hang(true);
  client.Send(ChatFrame("r1", "hello"));
  client.Send({{"v", 1}, {"type", "ping"}, {"id", "p"}});
  EXPECT_EQ(AnswerTo(client, "p", "pong")["ready"], true);
  client.Send({{"v", 1}, {"type", "status"}, {"id", "s2"}});
  const Json status = AnswerTo(client, "s2", "status");
  EXPECT_EQ(status["engine"]["answers"], false);
  EXPECT_EQ(status["requests"]["open"], 1);
  EXPECT_EQ(status["ranks"][0]["host"], "fakehost") << "as it was last";
  Json late = ChatFrame("r2", "hello");
  late["deadline"] = 0.1;
  client.Send(late);
  EXPECT_EQ(AnswerTo(client, "r2", "error")["code"], "deadline_exceeded");
  served.hanging.Hang(false);
  EXPECT_EQ(AnswerTo(client, "r1", "done")["text"], "You said: hello");
  EXPECT_EQ(served.engine.submitted(), 1) << "the late one did not reach the engine";
}

TEST(ServerOfAHangingEngine, CancelsWhatIsNotThereYetAndNeverRunsAnIdTwice) {
  HangingServer served;
  FrameClient client(served.server->endpoint());
  served.hanging.Hang(true);
  client.Send(ChatFrame("r1", "endless"));
  client.Send(ChatFrame("r1", "endless"));
  client.Send(ChatFrame("r1", "another"));
  EXPECT_EQ(AnswerTo(client, "r1", "error")["code"], "invalid_argument");
  client.Send({{"v", 1}, {"type", "cancel"}, {"id", "r1"}});
  client.Send({{"v", 1}, {"type", "ping"}, {"id", "p"}});
  EXPECT_FALSE(AnswerTo(client, "p", "pong").is_null());
  served.hanging.Hang(false);
  EXPECT_EQ((*client.Receive())["type"], "accepted");
  EXPECT_EQ((*client.Receive())["type"], "accepted") << "both frames are answered";
  EXPECT_EQ(AnswerTo(client, "r1", "done")["finish_reason"], "cancelled");
  EXPECT_EQ(served.engine.submitted(), 1);
}

TEST(ServerOfAHangingEngine, AClientThatVanishesMeanwhileLeavesNothingRunning) {
  ServiceOptions options;
  options.resume_grace = std::chrono::milliseconds(0);
  HangingServer served(options);
  served.hanging.Hang(true);
  FrameClient witness(served.server->endpoint());
  {
    FrameClient client(served.server->endpoint());
    client.Send(ChatFrame("r1", "endless"));
    Json turn = ChatFrame("r2", "endless");
    turn["conversation"] = "c";
    client.Send(turn);
    client.Send({{"v", 1}, {"type", "ping"}, {"id", "p"}});
    EXPECT_FALSE(AnswerTo(client, "p", "pong").is_null());
    client.Vanish();
  }
  EXPECT_TRUE(Eventually([&] {
    witness.Send({{"v", 1}, {"type", "status"}, {"id", "s"}});
    return AnswerTo(witness, "s", "status")["requests"]["open"] == 0;
  }));
  served.hanging.Hang(false);
  witness.Send(ChatFrame("w", "hello"));
  EXPECT_EQ(AnswerTo(witness, "w", "done")["text"], "You said: hello");
  EXPECT_TRUE(Eventually([&] { return served.engine.running() == 0; }));
  EXPECT_LE(served.engine.submitted(), 2) << "the second never reached it";
  Json turn = ChatFrame("t", "hello");
  turn["conversation"] = "c";
  witness.Send(turn);
  EXPECT_EQ(AnswerTo(witness, "t", "done")["usage"]["prompt_tokens"],
            std::string("user:hello\nassistant:").size())
      << "the conversation is what it was before";
}

}  // namespace
}  // namespace tandem::frontend
