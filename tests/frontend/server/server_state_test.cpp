#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <mutex>
#include <set>

#include "frontend/server/server.h"
#include "frontend/text/name_number.h"
#include "kv_store/base/chain_blocks.h"
#include "tests/support/frame_client.h"
#include "tests/support/served_engine.h"

namespace tandem::frontend {
namespace {

using testing::ChatFrame;
using testing::Eventually;
using testing::FrameClient;
using ::testing::HasSubstr;
using testing::ServedEngine;
using testing::ServedOptions;
using testing::TurnFrame;
using Json = nlohmann::json;

/// A log that keeps conversations in memory and tells of changes when the test lets it.
class HeldLog final : public ConversationLog {
 public:
  explicit HeldLog(std::map<ConversationName, Conversation> conversations = {})
      : conversations_(std::move(conversations)) {}

  void Append(const ConversationName& name, ConversationDelta delta,
              std::vector<kv_store::BlockHash> left_behind, Done done) override {
    const std::lock_guard lock(mutex_);
    left_behind_.insert(left_behind.begin(), left_behind.end());
    EXPECT_TRUE(Apply(std::move(delta), conversations_[name]).ok());
    waiting_.push_back(std::move(done));
  }
  void Erase(const ConversationName& name, std::vector<kv_store::BlockHash> blocks,
             Done done) override {
    const std::lock_guard lock(mutex_);
    conversations_.erase(name);
    unreadable_.erase(name);
    erased_blocks_ = blocks.size();
    waiting_.push_back(std::move(done));
  }
  void EraseKv(std::vector<kv_store::BlockHash> blocks) override {
    const std::lock_guard lock(mutex_);
    left_behind_.insert(blocks.begin(), blocks.end());
  }
  absl::Status CheckReadable(const ConversationName& name) override {
    const std::lock_guard lock(mutex_);
    if (!unreadable_.contains(name)) return absl::OkStatus();
    return FailedPrecondition("it cannot be read");
  }
  std::optional<Conversation> TakeDamaged(const ConversationName& name) override {
    const std::lock_guard lock(mutex_);
    auto kept = damaged_.extract(name);
    return kept.empty() ? std::nullopt : std::optional(kept.mapped());
  }
  void KeepDamaged(const ConversationName& name, Conversation kept) {
    const std::lock_guard lock(mutex_);
    kept.damaged = true;
    damaged_[name] = std::move(kept);
  }
  ConversationLogStatus Status() override {
    ConversationLogStatus status;
    status.directory = "/state";
    status.conversations = 3;
    status.damaged = 2;
    status.damage = "a table is damaged";
    status.trouble = "the disk is full";
    return status;
  }

  /// Tells all that waits; how many did.
  size_t Tell(const absl::Status& status) {
    std::deque<Done> waiting;
    {
      const std::lock_guard lock(mutex_);
      waiting.swap(waiting_);
    }
    for (const Done& done : waiting) done(status);
    return waiting.size();
  }
  size_t waiting() {
    const std::lock_guard lock(mutex_);
    return waiting_.size();
  }
  std::map<ConversationName, Conversation> conversations() {
    const std::lock_guard lock(mutex_);
    return conversations_;
  }
  size_t erased_blocks() {
    const std::lock_guard lock(mutex_);
    return erased_blocks_;
  }
  std::set<kv_store::BlockHash> left_behind() {
    const std::lock_guard lock(mutex_);
    return left_behind_;
  }
  void MakeUnreadable(const ConversationName& name) {
    const std::lock_guard lock(mutex_);
    unreadable_[name] = true;
  }

 private:
  std::mutex mutex_;
  std::map<ConversationName, Conversation> conversations_;
  std::map<ConversationName, bool> unreadable_;
  std::map<ConversationName, Conversation> damaged_;
  std::deque<Done> waiting_;
  size_t erased_blocks_ = 0;
  std::set<kv_store::BlockHash> left_behind_;
};

Json Command(const std::string& type, const std::string& conversation, const Json& more = {}) {
  Json frame = {{"v", 1}, {"type", type}, {"id", "ask"}, {"conversation", conversation}};
  if (!more.is_null()) frame.update(more);
  return frame;
}

/// The first frame for this id that is neither an acceptance nor a delta.
Json Outcome(FrameClient& client, const std::string& id) {
  while (const std::optional<Json> frame = client.Receive()) {
    if ((*frame)["id"] == id && (*frame)["type"] != "accepted" && (*frame)["type"] != "delta") {
      return *frame;
    }
  }
  return {};
}

/// A server with a log that tells nothing by itself.
struct LoggedServer {
  explicit LoggedServer(ServedOptions options = {})
      : served(std::move(options), std::chrono::microseconds(50), 4096, {}, &log) {}
  HeldLog log;
  ServedEngine served;
};

TEST(ServerState, AnAnswerIsDoneOnceItsTurnIsLogged) {
  LoggedServer server;
  FrameClient client(server.served.endpoint());
  client.Send(TurnFrame("r1", "hello"));
  ASSERT_TRUE(Eventually([&] { return server.log.waiting() == 1; }));
  // Whoever waits for a disk holds nobody up.
  FrameClient other(server.served.endpoint());
  other.Send(ChatFrame("r2", "without a conversation"));
  const Json unlogged = other.ReceiveAnswer("r2").back();
  EXPECT_EQ(unlogged["type"], "done");
  EXPECT_FALSE(unlogged.contains("durable"));
  EXPECT_EQ(server.log.waiting(), 1U);
  server.log.Tell(absl::OkStatus());
  const std::vector<Json> frames = client.ReceiveAnswer("r1");
  EXPECT_EQ(frames.back()["type"], "done");
  EXPECT_EQ(frames.back()["durable"], true);
  EXPECT_EQ(frames.back()["text"], "You said: hello");
  const auto kept = server.log.conversations();
  EXPECT_EQ(kept.at({"", "c1"}).messages.size(), 2U);
  EXPECT_GT(kept.at({"", "c1"}).history.tokens.size(), 20U);
}

TEST(ServerState, ATurnThatIsNotDurableSaysSo) {
  LoggedServer server;
  FrameClient client(server.served.endpoint());
  client.Send(TurnFrame("r1", "hello"));
  ASSERT_TRUE(Eventually([&] { return server.log.waiting() == 1; }));
  server.log.Tell(ResourceExhausted("the disk is full"));
  EXPECT_EQ(client.ReceiveAnswer("r1").back()["durable"], false);
  client.Send({{"v", 1}, {"type", "status"}, {"id", "s"}});
  const Json status = Outcome(client, "s");
  EXPECT_EQ(status["state"]["trouble"], "the disk is full");
  EXPECT_EQ(status["state"]["directory"], "/state");
}

TEST(ServerState, SparseAttentionOfEarlierTurnsIsWhyTheyWereComputedAgain) {
  ServedOptions sparse;
  sparse.attention = "sparse:window=64";
  std::map<ConversationName, Conversation> kept;
  const auto turn_of = [&](const ServedOptions& options, const std::string& text) {
    HeldLog log(kept);
    ServedEngine served(options, std::chrono::microseconds(50), 4096, {}, &log, [&](Service& made) {
      for (const auto& [name, one] : kept) made.Restore(name, one);
    });
    FrameClient client(served.endpoint());
    client.Send(TurnFrame("r1", text));
    EXPECT_TRUE(Eventually([&] { return log.waiting() == 1; }));
    log.Tell(absl::OkStatus());
    const Json done = client.ReceiveAnswer("r1").back();
    kept = log.conversations();
    return done["usage"]["reuse_limit"].get<std::string>();
  };
  EXPECT_EQ(turn_of(sparse, "one"), "nothing_known");
  EXPECT_EQ(kept.at({"", "c1"}).history.attention, "sparse:window=64");
  EXPECT_EQ(turn_of(sparse, "two"), "nothing_known") << "the engine is another one";
  EXPECT_EQ(turn_of({}, "three"), "other_attention");
  EXPECT_EQ(kept.at({"", "c1"}).history.attention, "");
  EXPECT_EQ(turn_of({}, "four"), "nothing_known");
  EXPECT_EQ(turn_of(sparse, "five"), "other_attention");
}

TEST(ServerState, TurnsGoOnWhereTheLogStopped) {
  LoggedServer server;
  FrameClient client(server.served.endpoint());
  for (int turn = 0; turn < 4; ++turn) {
    client.Send(TurnFrame(fmt::format("r{}", turn), fmt::format("turn {}", turn)));
    ASSERT_TRUE(Eventually([&] { return server.log.waiting() == 1; }));
    server.log.Tell(absl::OkStatus());
    EXPECT_EQ(client.ReceiveAnswer(fmt::format("r{}", turn)).back()["type"], "done");
  }
  const auto before = server.served.engine.requests().back().prompt;
  // Another server, with what the first one's log has, asks the engine as the first would have.
  HeldLog log(server.log.conversations());
  ServedEngine second({}, std::chrono::microseconds(50), 4096, {}, &log, [&](Service& made) {
    for (const auto& [name, one] : server.log.conversations()) {
      made.Restore(name, one);
    }
  });
  FrameClient other(second.endpoint());
  for (auto [one, at] : {std::pair{&client, &server.served}, std::pair{&other, &second}}) {
    one->Send(TurnFrame("next", "the next turn"));
    ASSERT_TRUE(
        Eventually([&] { return at->engine.running() == 0 && at->engine.submitted() > 0; }));
  }
  EXPECT_EQ(second.engine.requests().back().prompt, server.served.engine.requests().back().prompt);
  EXPECT_GT(second.engine.requests().back().prompt.size(), before.size());
}

TEST(ServerState, CancelDeadlineAndRepeatWhileItWaits) {
  LoggedServer server;
  FrameClient client(server.served.endpoint());
  Json turn = TurnFrame("r1", "hello");
  turn["deadline"] = 0.5;
  client.Send(turn);
  ASSERT_TRUE(Eventually([&] { return server.log.waiting() == 1; }));
  client.Send({{"v", 1}, {"type", "cancel"}, {"id", "r1"}});
  client.Send(turn);  // sent again: the same answer, not another turn
  std::this_thread::sleep_for(std::chrono::milliseconds(700));
  EXPECT_EQ(server.log.waiting(), 1U);
  server.log.Tell(absl::OkStatus());
  const Json done = client.ReceiveAnswer("r1").back();
  EXPECT_EQ(done["type"], "done") << done;
  EXPECT_EQ(done["finish_reason"], "stop");
  EXPECT_EQ(server.log.conversations().at({"", "c1"}).messages.size(), 2U);
}

TEST(ServerState, AClientThatIsGoneLosesNoTurn) {
  ServedOptions options;
  options.resume_grace = std::chrono::milliseconds(0);
  LoggedServer server(options);
  {
    FrameClient gone(server.served.endpoint());
    gone.Send(TurnFrame("r1", "hello"));
    ASSERT_TRUE(Eventually([&] { return server.log.waiting() == 1; }));
    gone.Vanish();
  }
  FrameClient client(server.served.endpoint());
  server.log.Tell(absl::OkStatus());
  client.Send(TurnFrame("r2", "again"));
  ASSERT_TRUE(Eventually([&] { return server.log.waiting() == 1; }));
  server.log.Tell(absl::OkStatus());
  EXPECT_EQ(client.ReceiveAnswer("r2").back()["type"], "done");
  EXPECT_EQ(server.log.conversations().at({"", "c1"}).messages.size(), 4U);
}

TEST(ServerState, ItsEndWaitsForTheLog) {
  LoggedServer server;
  FrameClient client(server.served.endpoint());
  client.Send(TurnFrame("r1", "hello"));
  ASSERT_TRUE(Eventually([&] { return server.log.waiting() == 1; }));
  server.served.service.Stop();
  std::this_thread::sleep_for(std::chrono::milliseconds(600));
  server.log.Tell(absl::OkStatus());
  EXPECT_EQ(client.ReceiveAnswer("r1").back()["type"], "done");
  EXPECT_TRUE(server.served.Join().ok());
}

TEST(ServerState, DeletesAndForksAreToldOnceLogged) {
  LoggedServer server;
  FrameClient client(server.served.endpoint());
  const auto answer_to = [&](const Json& frame, const absl::Status& told) {
    client.Send(frame);
    EXPECT_TRUE(Eventually([&] { return server.log.waiting() == 1; }));
    server.log.Tell(told);
    return Outcome(client, frame["id"]);
  };
  ASSERT_EQ(answer_to(TurnFrame("r1", "shared"), absl::OkStatus())["type"], "done");
  const Json fork = answer_to(Command("conversation.fork", "c1", {{"to", "c2"}}), absl::OkStatus());
  EXPECT_EQ(fork["to"], "c2");
  EXPECT_EQ(server.log.conversations().at({"", "c2"}).messages.size(), 2U);
  EXPECT_EQ(answer_to(TurnFrame("r2", "more"), absl::OkStatus())["type"], "done");
  const size_t shared = server.log.conversations().at({"", "c2"}).history.tokens.size();
  const size_t all = server.log.conversations().at({"", "c1"}).history.tokens.size();
  const Json failed = answer_to(Command("conversation.delete", "c1"), Unavailable("no disk"));
  EXPECT_EQ(failed["code"], "unavailable");
  EXPECT_THAT(failed["message"].get<std::string>(), HasSubstr("no disk"));
  EXPECT_EQ(server.log.erased_blocks(), all - shared) << "what c2 shares stays";
  const Json deleted = answer_to(Command("conversation.delete", "c2"), absl::OkStatus());
  EXPECT_EQ(deleted["type"], "conversation.delete");
  EXPECT_EQ(server.log.erased_blocks(), shared);
  EXPECT_TRUE(server.log.conversations().empty());
}

/// All blocks that these tokens may have left in tiers.
std::set<kv_store::BlockHash> BlocksOf(const std::vector<int32_t>& tokens, size_t kept = 0) {
  const std::vector<kv_store::BlockHash> blocks =
      kv_store::BlocksOfChain(NumberOf(""), tokens, kept);
  return {blocks.begin(), blocks.end()};
}

TEST(ServerState, ATurnWhoseHistoryGoesOnLeavesNothingBehind) {
  LoggedServer server;
  FrameClient client(server.served.endpoint());
  for (int turn = 0; turn < 3; ++turn) {
    client.Send(TurnFrame(fmt::format("r{}", turn), "hello"));
    ASSERT_TRUE(Eventually([&] { return server.log.waiting() == 1; }));
    server.log.Tell(absl::OkStatus());
    client.ReceiveAnswer(fmt::format("r{}", turn));
  }
  EXPECT_TRUE(server.log.left_behind().empty());
}

TEST(ServerState, WhatAWindowComputedIsLeftBehindAndTheHistoryIsNot) {
  LoggedServer server;
  FrameClient client(server.served.endpoint());
  std::vector<std::vector<int32_t>> windows;
  for (int turn = 0; turn < 3; ++turn) {
    Json frame = TurnFrame(fmt::format("r{}", turn), "hello");
    frame["context_policy"] = "window:30";
    client.Send(frame);
    ASSERT_TRUE(Eventually([&] { return server.log.waiting() == 1; }));
    server.log.Tell(absl::OkStatus());
    client.ReceiveAnswer(fmt::format("r{}", turn));
  }
  const std::set<kv_store::BlockHash> left = server.log.left_behind();
  const std::vector<int32_t> last = server.served.engine.requests().back().prompt;
  ASSERT_EQ(last.size(), 30U);
  for (const kv_store::BlockHash& block : BlocksOf(last)) EXPECT_TRUE(left.contains(block));
  const auto kept = server.log.conversations().at({"", "c1"}).history.tokens;
  for (const kv_store::BlockHash& block : BlocksOf(kept)) EXPECT_FALSE(left.contains(block));
}

TEST(ServerState, WhatAStopStringCutOffIsLeftBehind) {
  LoggedServer server;
  FrameClient client(server.served.endpoint());
  Json frame = TurnFrame("r1", "hello");
  frame["stop"] = {"said"};
  client.Send(frame);
  ASSERT_TRUE(Eventually([&] { return server.log.waiting() == 1; }));
  server.log.Tell(absl::OkStatus());
  EXPECT_EQ(client.ReceiveAnswer("r1").back()["text"], "You ");
  const auto kept = server.log.conversations().at({"", "c1"}).history.tokens;
  const std::set<kv_store::BlockHash> left = server.log.left_behind();
  EXPECT_FALSE(left.empty());
  for (const kv_store::BlockHash& block : BlocksOf(kept)) EXPECT_FALSE(left.contains(block));
}

TEST(ServerState, WhatWasComputedForATurnThatWasGivenUpIsLeftBehind) {
  ServedOptions options;
  options.resume_grace = std::chrono::milliseconds(0);
  LoggedServer server(options);
  {
    FrameClient gone(server.served.endpoint());
    gone.Send(TurnFrame("r1", "endless"));
    while (const std::optional<Json> frame = gone.Receive()) {
      if ((*frame)["type"] == "delta" && (*frame)["text"] != "") break;
    }
    gone.Vanish();
  }
  ASSERT_TRUE(Eventually([&] { return !server.log.left_behind().empty(); }));
  EXPECT_TRUE(server.log.conversations().empty());
  EXPECT_EQ(server.served.engine.running(), 0) << "told once the engine saves no more of it";
  const std::set<kv_store::BlockHash> left = server.log.left_behind();
  const std::set<kv_store::BlockHash> prompt =
      BlocksOf(server.served.engine.requests().back().prompt);
  for (const kv_store::BlockHash& block : prompt) EXPECT_TRUE(left.contains(block));
  EXPECT_GT(left.size(), prompt.size()) << "and the answer, as far as it went";
}

TEST(ServerState, AConversationThatCannotBeReadIsNotBegunAnew) {
  LoggedServer server;
  server.log.MakeUnreadable({"", "c1"});
  FrameClient client(server.served.endpoint());
  client.Send(TurnFrame("r1", "hello"));
  const Json refused = client.ReceiveAnswer("r1").back();
  EXPECT_EQ(refused["code"], "internal");
  EXPECT_THAT(refused["message"].get<std::string>(), HasSubstr("cannot be read"));
  client.Send(Command("conversation.delete", "c1"));
  ASSERT_TRUE(Eventually([&] { return server.log.waiting() == 1; }));
  server.log.Tell(absl::OkStatus());
  EXPECT_EQ(Outcome(client, "ask")["type"], "conversation.delete");
  client.Send(TurnFrame("r1", "hello"));
  ASSERT_TRUE(Eventually([&] { return server.log.waiting() == 1; }));
  server.log.Tell(absl::OkStatus());
  EXPECT_EQ(client.ReceiveAnswer("r1").back()["type"], "done");
}

TEST(ServerState, ADamagedConversationGoesOnOnlyWhereThatIsAccepted) {
  LoggedServer server;
  Conversation kept;
  kept.messages = {{"user", "first"}, {"assistant", "You said: first"}};
  kept.history.tokens = {1, 2, 3};
  server.log.KeepDamaged({"", "c1"}, kept);
  FrameClient client(server.served.endpoint());
  client.Send(TurnFrame("r1", "hello"));
  const Json refused = client.ReceiveAnswer("r1").back();
  EXPECT_EQ(refused["code"], "damaged");
  EXPECT_THAT(refused["message"].get<std::string>(), HasSubstr("first 2 messages are kept"));
  EXPECT_THAT(refused["message"].get<std::string>(), HasSubstr("accept_damage"));
  client.Send(Command("conversation.get", "c1"));
  const Json got = Outcome(client, "ask");
  EXPECT_EQ(got["damaged"], Json({{"kept_messages", 2}}));
  EXPECT_EQ(got["messages"].size(), 2U);
  client.Send(Command("conversation.list", "c1"));
  EXPECT_EQ(Outcome(client, "ask")["conversations"][0]["damaged"], Json({{"kept_messages", 2}}));
  client.Send(Command("conversation.fork", "c1", {{"to", "c2"}}));
  EXPECT_EQ(Outcome(client, "ask")["code"], "damaged");
  client.Send({{"v", 1}, {"type", "status"}, {"id", "s"}});
  const Json status = Outcome(client, "s");
  EXPECT_EQ(status["state"]["damaged"], 3) << "one with a name, and two that the log tells of";
  EXPECT_EQ(status["state"]["damage"], "a table is damaged");
  EXPECT_EQ(server.log.waiting(), 0U) << "nothing was written";
  // A turn that comes to nothing leaves the damage as it was.
  Json turn = TurnFrame("r2", "hello");
  turn["accept_damage"] = true;
  turn["deadline"] = 0.000001;
  client.Send(turn);
  EXPECT_EQ(client.ReceiveAnswer("r2").back()["type"], "error");
  client.Send(TurnFrame("r3", "hello"));
  EXPECT_EQ(client.ReceiveAnswer("r3").back()["code"], "damaged");
  turn = TurnFrame("r4", "hello");
  turn["accept_damage"] = true;
  client.Send(turn);
  ASSERT_TRUE(Eventually([&] { return server.log.waiting() == 1; }));
  server.log.Tell(absl::OkStatus());
  EXPECT_EQ(client.ReceiveAnswer("r4").back()["type"], "done");
  // The log, which had nothing of it, has all of it now.
  const Conversation logged = server.log.conversations().at({"", "c1"});
  EXPECT_EQ(logged.messages.size(), 4U);
  EXPECT_EQ(logged.messages[0].content, "first");
  client.Send(Command("conversation.get", "c1"));
  EXPECT_FALSE(Outcome(client, "ask").contains("damaged"));
}

TEST(ServerState, ADamagedConversationOfWhichNothingIsKeptStaysDamaged) {
  LoggedServer server;
  server.log.KeepDamaged({"", "c1"}, {});
  FrameClient client(server.served.endpoint());
  for (const char* id : {"r1", "r2"}) {
    Json turn = TurnFrame(id, "hello");
    turn["accept_damage"] = true;
    turn["deadline"] = 0.000001;
    client.Send(turn);
    EXPECT_EQ(client.ReceiveAnswer(id).back()["type"], "error");
    client.Send(Command("conversation.get", "c1"));
    EXPECT_EQ(Outcome(client, "ask")["damaged"], Json({{"kept_messages", 0}}));
  }
  client.Send(Command("conversation.delete", "c1"));
  ASSERT_TRUE(Eventually([&] { return server.log.waiting() == 1; }));
  server.log.Tell(absl::OkStatus());
  EXPECT_EQ(Outcome(client, "ask")["type"], "conversation.delete");
  client.Send(TurnFrame("r3", "hello"));
  ASSERT_TRUE(Eventually([&] { return server.log.waiting() == 1; }));
}

}  // namespace
}  // namespace tandem::frontend
