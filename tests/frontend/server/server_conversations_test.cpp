#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "frontend/server/server.h"
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

/// Sends a frame of this type and gives the answer.
Json Ask(FrameClient& client, const std::string& type, const Json& fields) {
  Json frame = {{"v", 1}, {"type", type}, {"id", "ask"}};
  frame.update(fields);
  client.Send(frame);
  while (true) {
    const std::optional<Json> answer = client.Receive();
    if (!answer) return {};
    if ((*answer)["id"] == "ask") return *answer;
  }
}

std::string PromptText(const parallel::EngineRequest& request) {
  return std::string(request.prompt.begin(), request.prompt.end());
}

TEST(Conversation, IsRememberedAndItsTokensAreReused) {
  ServedEngine served;
  std::string expected;
  int64_t new_tokens = 0;
  int64_t computed = 0;
  for (int turn = 0; turn < 8; ++turn) {
    // Each turn comes over another connection.
    FrameClient client(served.endpoint());
    const std::string content = fmt::format("question {} of a long conversation", turn);
    client.Send(TurnFrame(fmt::format("r{}", turn), content));
    const Json done = client.ReceiveAnswer(fmt::format("r{}", turn)).back();
    ASSERT_EQ(done["type"], "done") << done;
    EXPECT_EQ(done["conversation"], "c1");
    EXPECT_EQ(done["text"], "You said: " + content);
    expected += "user:" + content + "\nassistant:";
    EXPECT_EQ(PromptText(served.engine.requests().back()), expected);
    expected += "You said: " + content + "\n";
    if (turn > 0) {
      // The end token's place, and the last token of the answer, which was never read.
      computed += done["usage"]["computed_tokens"].get<int64_t>();
      new_tokens += static_cast<int64_t>(("user:" + content + "\nassistant:").size() +
                                         ("You said: " + content).size());
    }
  }
  EXPECT_LE(static_cast<double>(computed), 1.15 * static_cast<double>(new_tokens));
}

TEST(Conversation, AnswersAsOneChatWithAllMessages) {
  ServedEngine served;
  FrameClient client(served.endpoint());
  Json messages = Json::array();
  for (int turn = 0; turn < 4; ++turn) {
    const std::string content = fmt::format("turn {} ü", turn);
    client.Send(TurnFrame(fmt::format("c{}", turn), content));
    const Json kept = client.ReceiveAnswer(fmt::format("c{}", turn)).back();
    messages.push_back({{"role", "user"}, {"content", content}});
    client.Send(
        {{"v", 1}, {"type", "chat"}, {"id", fmt::format("m{}", turn)}, {"messages", messages}});
    const Json whole = client.ReceiveAnswer(fmt::format("m{}", turn)).back();
    EXPECT_EQ(kept["text"], whole["text"]);
    EXPECT_EQ(kept["usage"]["prompt_tokens"], whole["usage"]["prompt_tokens"]);
    const auto requests = served.engine.requests();
    EXPECT_EQ(requests[requests.size() - 1].prompt, requests[requests.size() - 2].prompt);
    messages.push_back({{"role", "assistant"}, {"content", whole["text"]}});
  }
  const Json got = Ask(client, "conversation.get", {{"conversation", "c1"}});
  EXPECT_EQ(got["messages"], messages);
  EXPECT_GT(got["tokens"], 0);
}

TEST(Conversation, KeepsWhatTheUserSawHoweverTheAnswerEnded) {
  ServedEngine served;
  FrameClient client(served.endpoint());
  client.Send(TurnFrame("r1", "endless", {{"stop", {"er ov"}}}));
  EXPECT_EQ(client.ReceiveAnswer("r1").back()["text"], "over and ov");
  client.Send(TurnFrame("r2", "endless", {{"max_tokens", 7}}));
  EXPECT_EQ(client.ReceiveAnswer("r2").back()["text"], "over an");
  client.Send(TurnFrame("r3", "endless"));
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(client.Receive());
  client.Send({{"v", 1}, {"type", "cancel"}, {"id", "r3"}});
  const Json cancelled = client.ReceiveAnswer("r3").back();
  EXPECT_EQ(cancelled["finish_reason"], "cancelled");
  client.Send(TurnFrame("r4", "x", {{"max_tokens", 0}}));
  EXPECT_EQ(client.ReceiveAnswer("r4").back()["text"], "");
  client.Send(TurnFrame("r5", "bye"));
  const Json done = client.ReceiveAnswer("r5").back();
  EXPECT_EQ(PromptText(served.engine.requests().back()),
            "user:endless\nassistant:over and ov\nuser:endless\nassistant:over an\n"
            "user:endless\nassistant:" +
                cancelled["text"].get<std::string>() +
                "\nuser:x\nassistant:\nuser:bye\nassistant:");
  EXPECT_GE(done["usage"]["reused_tokens"].get<size_t>() +
                std::string("\nuser:bye\nassistant:").size() + 2,
            done["usage"]["prompt_tokens"]);
}

TEST(Conversation, IsEncodedAnewWhereTheTemplateChangesTheAnswer) {
  ServedEngine served;
  served.model.set_trims(true);
  FrameClient client(served.endpoint());
  client.Send(TurnFrame("r1", "hello   "));
  client.ReceiveAnswer("r1");
  client.Send(TurnFrame("r2", "endless", {{"max_tokens", 5}}));
  EXPECT_EQ(client.ReceiveAnswer("r2").back()["text"], "over ");
  client.Send(TurnFrame("r3", "bye"));
  client.ReceiveAnswer("r3");
  EXPECT_THAT(PromptText(served.engine.requests().back()),
              HasSubstr("assistant:over\nuser:bye\nassistant:"));
}

TEST(Conversation, HasOneAnswerAtATime) {
  ServedEngine served;
  FrameClient client(served.endpoint());
  client.Send(TurnFrame("r1", "endless"));
  ASSERT_TRUE(client.Receive());
  FrameClient other(served.endpoint());
  other.Send(TurnFrame("r2", "me too"));
  const Json busy = other.ReceiveAnswer("r2").back();
  EXPECT_EQ(busy["code"], "overloaded");
  EXPECT_THAT(busy["message"].get<std::string>(), HasSubstr("is being answered"));
  EXPECT_GT(busy["retry_after"], 0);
  EXPECT_EQ(Ask(other, "conversation.delete", {{"conversation", "c1"}})["code"], "overloaded");
  client.Send({{"v", 1}, {"type", "cancel"}, {"id", "r1"}});
  client.ReceiveAnswer("r1");
  other.Send(TurnFrame("r2", "me too"));
  EXPECT_EQ(other.ReceiveAnswer("r2").back()["text"], "You said: me too");
}

TEST(Conversation, AFailedRequestLeavesItAsItWas) {
  ServedOptions options;
  options.resume_grace = std::chrono::milliseconds(0);
  ServedEngine served(options, std::chrono::microseconds(200), /*context=*/200);
  FrameClient client(served.endpoint());
  client.Send(TurnFrame("r0", std::string(300, 'x')));
  EXPECT_EQ(client.ReceiveAnswer("r0").back()["code"], "invalid_argument");
  EXPECT_TRUE(Ask(client, "conversation.list", Json::object())["conversations"].empty());
  client.Send(TurnFrame("r1", "one"));
  client.ReceiveAnswer("r1");
  const Json before = Ask(client, "conversation.get", {{"conversation", "c1"}});
  client.Send(TurnFrame("r2", std::string(300, 'x')));
  EXPECT_EQ(client.ReceiveAnswer("r2").back()["code"], "invalid_argument");
  EXPECT_EQ(Ask(client, "conversation.get", {{"conversation", "c1"}}), before);
  served.engine.Hold(true);
  client.Send(TurnFrame("r3", "endless", {{"deadline", 0.05}}));
  EXPECT_EQ(client.ReceiveAnswer("r3").back()["code"], "deadline_exceeded");
  EXPECT_EQ(Ask(client, "conversation.get", {{"conversation", "c1"}}), before);
  {
    FrameClient gone(served.endpoint());
    gone.Send(TurnFrame("r4", "endless"));
    ASSERT_TRUE(gone.Receive());
    gone.Vanish();
  }
  EXPECT_TRUE(Eventually([&] {
    return Ask(client, "conversation.get", {{"conversation", "c1"}}) == before;
  }));
}

TEST(Conversation, BelongsToATenant) {
  ServedEngine served;
  FrameClient client(served.endpoint());
  client.Send(TurnFrame("r1", "a secret"));
  client.ReceiveAnswer("r1");
  client.Send(TurnFrame("r2", "mine", {{"tenant", "other"}}));
  const Json done = client.ReceiveAnswer("r2").back();
  EXPECT_EQ(PromptText(served.engine.requests().back()), "user:mine\nassistant:");
  EXPECT_EQ(done["usage"]["reused_tokens"], 0) << "not even the pages";
  EXPECT_NE(served.engine.requests().at(0).tenant, served.engine.requests().at(1).tenant);
  EXPECT_EQ(served.engine.requests().at(0).tenant, 0U);
  const auto names = [&](const Json& fields) {
    std::vector<std::string> found;
    const Json list = Ask(client, "conversation.list", fields);
    for (const Json& entry : list["conversations"]) {
      found.push_back(entry["conversation"]);
    }
    return found;
  };
  EXPECT_EQ(names({{"tenant", "other"}}), std::vector<std::string>{"c1"});
  EXPECT_EQ(names({{"tenant", "third"}}), std::vector<std::string>{});
  EXPECT_EQ(Ask(client, "conversation.get", {{"conversation", "c1"}, {"tenant", "third"}})["code"],
            "not_found");
  EXPECT_EQ(
      Ask(client, "conversation.delete", {{"conversation", "c1"}, {"tenant", "other"}})["type"],
      "conversation.delete");
  EXPECT_EQ(names(Json::object()), std::vector<std::string>{"c1"});
}

TEST(Conversation, ForksGoOnSeparately) {
  ServedEngine served;
  FrameClient client(served.endpoint());
  client.Send(TurnFrame("r1", "shared"));
  client.ReceiveAnswer("r1");
  EXPECT_EQ(Ask(client, "conversation.fork", {{"conversation", "c1"}, {"to", "c2"}})["to"], "c2");
  EXPECT_EQ(Ask(client, "conversation.fork", {{"conversation", "c1"}, {"to", "c2"}})["code"],
            "invalid_argument");
  EXPECT_EQ(Ask(client, "conversation.fork", {{"conversation", "no"}, {"to", "c3"}})["code"],
            "not_found");
  client.Send(TurnFrame("r2", "left"));
  client.Send(TurnFrame("r3", "right", {{"conversation", "c2"}}));
  client.ReceiveAnswer("r2");
  client.ReceiveAnswer("r3");
  const Json left = Ask(client, "conversation.get", {{"conversation", "c1"}})["messages"];
  const Json right = Ask(client, "conversation.get", {{"conversation", "c2"}})["messages"];
  ASSERT_EQ(left.size(), 4U);
  EXPECT_EQ(left[1], right[1]);
  EXPECT_EQ(left[2]["content"], "left");
  EXPECT_EQ(right[2]["content"], "right");
}

TEST(Conversation, NumberAndBytesAreBounded) {
  ServedOptions options;
  options.conversations = {.conversations = 3, .bytes = 20000};
  ServedEngine served(options);
  FrameClient client(served.endpoint());
  const auto say = [&](const std::string& conversation, const std::string& content) {
    static int number = 0;
    const std::string id = fmt::format("r{}", number++);
    client.Send(TurnFrame(id, content, {{"conversation", conversation}}));
    return client.ReceiveAnswer(id).back();
  };
  for (const char* name : {"a", "b", "c"}) EXPECT_EQ(say(name, "hi")["type"], "done");
  const Json full = say("d", "hi");
  EXPECT_EQ(full["code"], "overloaded");
  EXPECT_THAT(full["message"].get<std::string>(), HasSubstr("conversation.delete"));
  EXPECT_EQ(Ask(client, "conversation.fork", {{"conversation", "a"}, {"to", "d"}})["code"],
            "overloaded");
  EXPECT_EQ(say("a", "one that is there goes on")["type"], "done");
  EXPECT_EQ(Ask(client, "conversation.delete", {{"conversation", "b"}})["conversation"], "b");
  EXPECT_EQ(Ask(client, "conversation.delete", {{"conversation", "b"}})["code"], "not_found");
  EXPECT_EQ(say("d", "hi")["type"], "done");
  int said = 0;
  Json last;
  while ((last = say("a", std::string(400, 'x')))["type"] == "done") ASSERT_LT(++said, 50);
  EXPECT_GT(said, 0);
  EXPECT_THAT(last["message"].get<std::string>(), HasSubstr("--conversation-memory"));
  const Json status = Ask(client, "status", Json::object());
  EXPECT_EQ(status["conversations"]["count"], 3);
  EXPECT_GT(status["conversations"]["bytes"], 10000);
}

TEST(Conversation, ListsAndMessagesComeInPages) {
  ServedEngine served;
  FrameClient client(served.endpoint());
  for (const char* name : {"a", "b", "c"}) {
    client.Send(TurnFrame(name, "hi", {{"conversation", name}}));
    client.ReceiveAnswer(name);
  }
  Json page = Ask(client, "conversation.list", {{"limit", 2}});
  EXPECT_EQ(page["conversations"].size(), 2U);
  EXPECT_EQ(page["more"], true);
  EXPECT_EQ(page["conversations"][1]["message_count"], 2);
  page = Ask(client, "conversation.list", {{"limit", 2}, {"after", "b"}});
  EXPECT_EQ(page["conversations"].size(), 1U);
  EXPECT_EQ(page["more"], false);
  const Json rest = Ask(client, "conversation.get", {{"conversation", "a"}, {"from", 1}});
  EXPECT_EQ(rest["messages"].size(), 1U);
  EXPECT_FALSE(rest.contains("next"));
  EXPECT_TRUE(
      Ask(client, "conversation.get", {{"conversation", "a"}, {"from", 99}})["messages"].empty());
  // A page is measured as it is sent: with the names of its fields, and escaped.
  constexpr int kMessages = 30'000;
  Json many = Json::array();
  for (int i = 0; i < kMessages; ++i) many.push_back({{"role", "user"}, {"content", ""}});
  for (int turn = 0; turn < 2; ++turn) {
    const std::string id = fmt::format("many {}", turn);
    client.Send({{"v", 1},
                 {"type", "chat"},
                 {"id", id},
                 {"conversation", "many"},
                 {"context_policy", "window:64"},
                 {"messages", many}});
    EXPECT_EQ(client.ReceiveAnswer(id).back()["type"], "done");
    client.Send(TurnFrame(id + "!", std::string(170'000, '\x01'),
                          {{"conversation", "escaped"}, {"context_policy", "window:64"}}));
    EXPECT_EQ(client.ReceiveAnswer(id + "!").back()["type"], "done");
  }
  for (const char* name : {"many", "escaped"}) {
    const Json got = Ask(client, "conversation.get", {{"conversation", name}});
    EXPECT_LT(got.dump().size(), (2U << 20) + 1000) << name;
    EXPECT_TRUE(got.contains("next")) << name;
  }
}

TEST(Conversation, ShiftsAndSaysWhatWasDropped) {
  ServedOptions options;
  options.context_policy.kind = ContextPolicy::Kind::kShift;
  ServedEngine served(options, std::chrono::microseconds(50), /*context=*/600);
  FrameClient client(served.endpoint());
  int64_t dropped = 0;
  int shifts = 0;
  for (int turn = 0; turn < 20; ++turn) {
    const std::string id = fmt::format("r{}", turn);
    client.Send(TurnFrame(id, fmt::format("a message of the user's, number {}", turn)));
    const Json done = client.ReceiveAnswer(id).back();
    ASSERT_EQ(done["type"], "done") << done;
    const int64_t now = done.contains("dropped") ? done["dropped"]["messages"].get<int64_t>() : 0;
    ASSERT_GE(now, dropped);
    if (now > dropped) {
      ++shifts;
      EXPECT_GT(done["dropped"]["tokens"], 0);
    }
    dropped = now;
  }
  EXPECT_GE(shifts, 2);
  EXPECT_LE(shifts, 10);
  EXPECT_EQ(Ask(client, "conversation.get", {{"conversation", "c1"}})["messages"].size(), 40U);
  // The request's own policy counts: this one stops.
  client.Send(TurnFrame("w", "hi", {{"context_policy", "window:30"}}));
  const Json window = client.ReceiveAnswer("w").back();
  EXPECT_EQ(window["usage"]["prompt_tokens"], 30);
  EXPECT_GT(window["dropped"]["tokens"], 0);
}

}  // namespace
}  // namespace tandem::frontend
