#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "frontend/server/server.h"
#include "tests/support/frame_client.h"
#include "tests/support/served_engine.h"

/// Several samples, log-probabilities, echo, and answers that are resumed.
namespace tandem::frontend {
namespace {

using testing::ChatFrame;
using testing::Eventually;
using testing::FakeEngine;
using testing::FrameClient;
using ::testing::HasSubstr;
using testing::JoinedDeltas;
using testing::ServedEngine;
using testing::ServedOptions;
using Json = nlohmann::json;

Json JoinedLogprobs(const std::vector<Json>& frames) {
  Json all = Json::array();
  for (const Json& frame : frames) {
    if (frame["type"] != "delta") continue;
    for (const Json& entry : frame["logprobs"]) all.push_back(entry);
  }
  return all;
}

std::string TextOf(const Json& logprobs) {
  std::string text;
  for (const Json& entry : logprobs) {
    if (!entry.contains("bytes")) {
      text += entry["text"].get<std::string>();
      continue;
    }
    for (const Json& byte : entry["bytes"]) text.push_back(static_cast<char>(byte.get<int>()));
  }
  return text;
}

TEST(Answers, GoOnWithTheLastMessageAndHearOfVariables) {
  ServedEngine served;
  FrameClient client(served.endpoint());
  Json request = ChatFrame("r1", "Hi");
  request["messages"].push_back({{"role", "assistant"}, {"content", "Hel"}});
  request["continue_final_message"] = true;
  request["chat_template_kwargs"] = {{"mood", "good"}};
  client.Send(request);
  EXPECT_EQ(client.ReceiveAnswer("r1").back()["type"], "done");
  EXPECT_EQ(served.engine.requests().back().prompt,
            testing::ByteTokens("mood=\"good\"\nuser:Hi\nassistant:Hel"));
  for (const auto& [field, value] :
       {std::pair("continue_final_message", true), {"add_generation_prompt", false}}) {
    Json turn = ChatFrame(field, "Hi");
    turn["conversation"] = "c1";
    turn[field] = value;
    client.Send(turn);
    const Json refused = client.ReceiveAnswer(field).back();
    EXPECT_EQ(refused["code"], "invalid_argument");
    EXPECT_THAT(refused["message"].get<std::string>(), HasSubstr(field));
  }
}

TEST(Answers, MayPauseForAReason) {
  ServedEngine served;
  FrameClient client(served.endpoint());
  client.Send(ChatFrame("r1", "endless"));
  while (client.Receive().value()["type"] != "delta") {
  }
  served.engine.Tell({.number = 1, .text = "rank 1 on host n1 died"});
  Json frame = client.Receive().value();
  while (frame["type"] == "delta") frame = client.Receive().value();
  EXPECT_EQ(
      frame,
      (Json{{"v", 1}, {"id", "r1"}, {"type", "notice"}, {"message", "rank 1 on host n1 died"}}));
  EXPECT_EQ(client.Receive().value()["type"], "delta");
}

TEST(Answers, TellWhetherTheNumberOfRanksMayChange) {
  ServedEngine served;
  FrameClient client(served.endpoint());
  client.Send({{"v", 1}, {"type", "scale"}, {"id", "s1"}, {"ranks", 3}});
  Json frame = client.Receive().value();
  EXPECT_EQ(frame["code"], "unavailable");
  EXPECT_THAT(frame["message"].get<std::string>(), HasSubstr("--elastic"));
  served.engine.set_scale({.ranks = 3, .epoch = 2, .seconds = 0.5});
  client.Send({{"v", 1}, {"type", "scale"}, {"id", "s2"}, {"ranks", 3}});
  EXPECT_EQ(client.Receive().value(), (Json{{"v", 1},
                                            {"id", "s2"},
                                            {"type", "scale"},
                                            {"ranks", 3},
                                            {"epoch", 2},
                                            {"seconds", 0.5}}));
  client.Send({{"v", 1}, {"type", "scale"}, {"id", "s3"}});
  frame = client.Receive().value();
  EXPECT_EQ(frame["code"], "invalid_argument");
  EXPECT_THAT(frame["message"].get<std::string>(), HasSubstr("ranks"));
}

TEST(Samples, AreAnswersOfTheirOwn) {
  ServedEngine served;
  FrameClient client(served.endpoint());
  Json request = ChatFrame("r1", "hello");
  request["n"] = 3;
  request["temperature"] = 1;
  client.Send(request);
  const std::vector<Json> frames = client.ReceiveAnswer("r1");
  const Json& done = frames.back();
  ASSERT_EQ(done["choices"].size(), 3U);
  EXPECT_FALSE(done.contains("text"));
  EXPECT_TRUE(done.contains("seed"));
  std::vector<std::string> texts(3);
  int64_t seq = 0;
  for (const Json& frame : frames) {
    if (frame["type"] != "delta") continue;
    EXPECT_EQ(frame["seq"], seq++);
    texts.at(frame["index"].get<size_t>()) += frame["text"].get<std::string>();
  }
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(done["choices"][i]["index"], i);
    EXPECT_EQ(done["choices"][i]["text"], "You said: hello");
    EXPECT_EQ(done["choices"][i]["finish_reason"], "stop");
    EXPECT_EQ(texts[i], "You said: hello");
  }
  EXPECT_EQ(done["usage"]["completion_tokens"], 45);
  EXPECT_EQ(done["usage"]["prompt_tokens"], std::string("user:hello\nassistant:").size());
  const auto requests = served.engine.requests();
  ASSERT_EQ(requests.size(), 3U);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(requests[i].prompt, requests[0].prompt);
    EXPECT_EQ(requests[i].sampling.sample_number, i);
    EXPECT_EQ(requests[i].sampling.seed, done["seed"]);
  }
  // Sent again, the same frames come again.
  client.Send(request);
  const std::vector<Json> again = client.ReceiveAnswer("r1");
  EXPECT_TRUE(frames == again);
  EXPECT_EQ(served.engine.submitted(), 3);
}

TEST(Samples, CountAgainstTheLimitsAndLeaveNothingBehind) {
  ServedOptions options;
  options.open_requests_per_client = 4;
  ServedEngine served(options);
  FrameClient client(served.endpoint());
  Json request = ChatFrame("r1", "endless");
  request["n"] = 3;
  client.Send(request);
  ASSERT_TRUE(Eventually([&] { return served.engine.running() == 3; }));
  request["id"] = "r2";
  client.Send(request);
  const Json refused = client.ReceiveAnswer("r2").back();
  EXPECT_EQ(refused["code"], "overloaded");
  EXPECT_GT(refused["retry_after"], 0);
  client.Send({{"v", 1}, {"type", "cancel"}, {"id", "r1"}});
  const Json done = client.ReceiveAnswer("r1").back();
  for (const Json& choice : done["choices"]) EXPECT_EQ(choice["finish_reason"], "cancelled");
  EXPECT_EQ(served.engine.running(), 0);
  // The engine takes two of three: none is left running.
  served.engine.set_capacity(2);
  request["id"] = "r3";
  client.Send(request);
  EXPECT_EQ(client.ReceiveAnswer("r3").back()["code"], "overloaded");
  EXPECT_TRUE(Eventually([&] { return served.engine.running() == 0; }));
}

TEST(Logprobs, ComeWithDeltasAndDone) {
  ServedEngine served;
  FrameClient client(served.endpoint());
  Json request = ChatFrame("r1", "naïve 🚲");
  request["logprobs"] = 2;
  client.Send(request);
  const std::vector<Json> frames = client.ReceiveAnswer("r1");
  const Json& done = frames.back();
  EXPECT_EQ(JoinedDeltas(frames), done["text"]);
  EXPECT_EQ(JoinedLogprobs(frames), done["logprobs"]);
  EXPECT_EQ(TextOf(done["logprobs"]), done["text"]);
  EXPECT_EQ(done["logprobs"].size(), done["usage"]["completion_tokens"]);
  const Json& first = done["logprobs"][0];
  EXPECT_EQ(first["token"], 'Y');
  EXPECT_EQ(first["text"], "Y");
  EXPECT_FLOAT_EQ(first["logprob"].get<float>(), -0.89F);
  ASSERT_EQ(first["top"].size(), 2U);
  EXPECT_EQ(first["top"][1]["token"], 1);
  EXPECT_FLOAT_EQ(first["top"][1]["logprob"].get<float>(), -0.01F);
}

TEST(Logprobs, EndWithTheStopString) {
  ServedEngine served;
  FrameClient client(served.endpoint());
  Json request = ChatFrame("r1", "endless");
  request["logprobs"] = 0;
  request["stop"] = {"er ov"};
  client.Send(request);
  const std::vector<Json> frames = client.ReceiveAnswer("r1");
  const Json& done = frames.back();
  EXPECT_EQ(done["text"], "over and ov");
  EXPECT_EQ(done["usage"]["completion_tokens"], 16);
  EXPECT_EQ(done["logprobs"].size(), 16U) << "tokens of the stop string included";
  EXPECT_EQ(JoinedLogprobs(frames), done["logprobs"]);
  EXPECT_TRUE(done["logprobs"][0]["top"].empty());
}

TEST(Logprobs, AreBounded) {
  ServedEngine served({}, std::chrono::microseconds(0), /*context=*/100000);
  FrameClient client(served.endpoint());
  Json request = ChatFrame("r1", "x");
  request["logprobs"] = 20;
  client.Send(request);
  const Json refused = client.ReceiveAnswer("r1").back();
  EXPECT_EQ(refused["code"], "invalid_argument");
  EXPECT_THAT(refused["message"].get<std::string>(), HasSubstr("smaller max_tokens"));
  request["max_tokens"] = 100;
  client.Send(request);
  EXPECT_EQ(client.ReceiveAnswer("r1").back()["type"], "done");
}

TEST(Echo, PutsThePromptFirst) {
  ServedEngine served;
  FrameClient client(served.endpoint());
  client.Send({{"v", 1}, {"type", "complete"}, {"id", "r1"}, {"prompt", "Once ü"}, {"echo", true}});
  std::vector<Json> frames = client.ReceiveAnswer("r1");
  EXPECT_EQ(frames.back()["text"], "Once üYou said: Once ü");
  EXPECT_EQ(JoinedDeltas(frames), frames.back()["text"]);
  client.Send({{"v", 1},
               {"type", "complete"},
               {"id", "r2"},
               {"tokens", {104, 105}},
               {"echo", true},
               {"n", 2}});
  frames = client.ReceiveAnswer("r2");
  for (const Json& choice : frames.back()["choices"]) EXPECT_EQ(choice["text"], "hiYou said: hi");
}

TEST(Echo, GivesThePromptsLogprobsToo) {
  ServedEngine served;
  FrameClient client(served.endpoint());
  for (const int max_tokens : {0, 3}) {
    const std::string id = fmt::format("r{}", max_tokens);
    client.Send({{"v", 1},
                 {"type", "complete"},
                 {"id", id},
                 {"prompt", "abc"},
                 {"echo", true},
                 {"logprobs", 1},
                 {"max_tokens", max_tokens}});
    const std::vector<Json> frames = client.ReceiveAnswer(id);
    const Json& done = frames.back();
    EXPECT_EQ(done["text"], max_tokens == 0 ? "abc" : "abcYou");
    EXPECT_EQ(TextOf(done["logprobs"]), done["text"]);
    EXPECT_EQ(JoinedLogprobs(frames), done["logprobs"]);
    EXPECT_EQ(JoinedDeltas(frames), done["text"]);
    EXPECT_TRUE(done["logprobs"][0]["logprob"].is_null());
    EXPECT_FLOAT_EQ(done["logprobs"][1]["logprob"].get<float>(), -0.98F);
  }
}

TEST(Requests, CarryWhatTheSchedulerNeeds) {
  ServedEngine served;
  FrameClient one(served.endpoint());
  FrameClient two(served.endpoint());
  Json request = ChatFrame("r1", "x");
  request["priority"] = 7;
  request["cache"] = false;
  request["speculate"] = false;
  one.Send(request);
  EXPECT_EQ(one.ReceiveAnswer("r1").back()["usage"]["reuse_limit"], "not_asked");
  two.Send(ChatFrame("r1", "x"));
  two.ReceiveAnswer("r1");
  one.Send(ChatFrame("r2", "x"));
  one.ReceiveAnswer("r2");
  const auto requests = served.engine.requests();
  EXPECT_EQ(requests[0].priority, 7);
  EXPECT_FALSE(requests[0].reuse);
  EXPECT_FALSE(requests[0].speculate);
  EXPECT_TRUE(requests[1].reuse && requests[1].speculate);
  EXPECT_NE(requests[0].client, requests[1].client);
  EXPECT_EQ(requests[0].client, requests[2].client);
}

TEST(Resume, GoesOnWithTheStream) {
  ServedEngine served;
  std::string text;
  int64_t last_seq = -1;
  {
    FrameClient client(served.endpoint(), {.identity = "alice"});
    client.Send(ChatFrame("r1", "endless"));
    ASSERT_EQ((*client.Receive())["type"], "accepted");
    for (int i = 0; i < 5; ++i) {
      const Json frame = *client.Receive();
      last_seq = frame["seq"];
      text += frame["text"].get<std::string>();
    }
    client.Vanish();
  }
  ASSERT_TRUE(Eventually([&] { return served.engine.running() == 1; }));
  FrameClient again(served.endpoint(), {.identity = "alice"});
  again.Send({{"v", 1}, {"type", "resume"}, {"id", "r1"}, {"last_seq", last_seq}});
  // Where the server had not noticed that its client was gone, the new connection gets deltas that
  // were on their way before it is answered: they come again then, in order.
  bool resumed = false;
  const auto take = [&](const Json& frame) {
    if (frame["type"] != "delta" || frame["seq"] <= last_seq) return;
    resumed = resumed || frame["seq"] == last_seq + 1;
    if (!resumed) return;
    EXPECT_EQ(frame["seq"], last_seq + 1);
    last_seq = frame["seq"];
    text += frame["text"].get<std::string>();
  };
  for (int i = 0; i < 20; ++i) take(*again.Receive());
  again.Send({{"v", 1}, {"type", "cancel"}, {"id", "r1"}});
  const std::vector<Json> frames = again.ReceiveAnswer("r1");
  for (const Json& frame : frames) take(frame);
  EXPECT_EQ(frames.back()["finish_reason"], "cancelled");
  EXPECT_EQ(frames.back()["text"], text);
  EXPECT_EQ(served.engine.submitted(), 1);
  // And of one that is done.
  again.Send({{"v", 1}, {"type", "resume"}, {"id", "r1"}, {"last_seq", last_seq - 1}});
  const std::vector<Json> end = again.ReceiveAnswer("r1");
  ASSERT_EQ(end.size(), 3U);
  EXPECT_EQ(end[1]["seq"], last_seq);
  EXPECT_EQ(end[2], frames.back());
}

TEST(Resume, ALongAnswerComesAsItsClientReads) {
  ServedOptions options;
  options.client_budget_bytes = int64_t{1} << 20;
  constexpr int64_t kDeltas = 80000;  // several times the budget, and what kernels hold besides
  ServedEngine served(options, std::chrono::microseconds(20), /*context=*/100000);
  FrameClient client(served.endpoint(), {.identity = "alice"});
  Json request = ChatFrame("r1", "endless");
  request["max_tokens"] = kDeltas;
  client.Send(request);
  const std::vector<Json> first = client.ReceiveAnswer("r1");
  ASSERT_EQ(first.back()["finish_reason"], "length");
  client.Send({{"v", 1}, {"type", "resume"}, {"id", "r1"}});
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  FrameClient other(served.endpoint());
  other.Send(ChatFrame("r2", "hello"));
  EXPECT_EQ(other.ReceiveAnswer("r2").back()["text"], "You said: hello");
  // One that is asked for meanwhile takes its place.
  client.Send({{"v", 1}, {"type", "resume"}, {"id", "r1"}, {"last_seq", -1}});
  std::vector<Json> again = client.ReceiveAnswer("r1");
  const auto begins = std::find_if(again.rbegin(), again.rend(),
                                   [](const Json& frame) { return frame["type"] == "accepted"; });
  again.erase(again.begin(), begins.base() - 1);
  EXPECT_TRUE(again == first);
  EXPECT_EQ(served.engine.submitted(), 2);
}

TEST(Resume, AnswersThatEndWhileTheirClientIsGoneAreKept) {
  ServedEngine served;
  served.engine.Hold(true);
  {
    FrameClient client(served.endpoint(), {.identity = "alice"});
    client.Send(ChatFrame("r1", "hello"));
    ASSERT_TRUE(client.Receive());
    client.Vanish();
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  served.engine.Hold(false);
  ASSERT_TRUE(Eventually([&] { return served.engine.running() == 0; }));
  FrameClient again(served.endpoint(), {.identity = "alice"});
  again.Send({{"v", 1}, {"type", "resume"}, {"id", "r1"}});
  EXPECT_EQ(again.ReceiveAnswer("r1").back()["text"], "You said: hello");
  EXPECT_EQ(served.engine.submitted(), 1);
}

TEST(Resume, IsForThoseWhoComeBackInTime) {
  ServedOptions options;
  options.resume_grace = std::chrono::milliseconds(50);
  ServedEngine served(options);
  {
    FrameClient client(served.endpoint(), {.identity = "alice"});
    client.Send(ChatFrame("r1", "endless"));
    ASSERT_TRUE(client.Receive());
    client.Vanish();
  }
  EXPECT_TRUE(Eventually([&] { return served.engine.running() == 0; }));
  FrameClient again(served.endpoint(), {.identity = "alice"});
  again.Send({{"v", 1}, {"type", "resume"}, {"id", "r1"}});
  EXPECT_EQ(again.ReceiveAnswer("r1").back()["code"], "not_found");
  FrameClient other(served.endpoint(), {.identity = "bob"});
  other.Send(ChatFrame("r1", "hello"));
  other.ReceiveAnswer("r1");
  again.Send({{"v", 1}, {"type", "resume"}, {"id", "r1"}});
  EXPECT_EQ(again.ReceiveAnswer("r1").back()["code"], "not_found") << "bob's is not alice's";
}

TEST(Resume, DeadlinesHoldWhileTheClientIsGone) {
  ServedEngine served;
  {
    FrameClient client(served.endpoint(), {.identity = "alice"});
    Json request = ChatFrame("r1", "endless");
    request["deadline"] = 0.2;
    client.Send(request);
    ASSERT_TRUE(client.Receive());
    client.Vanish();
  }
  const auto start = std::chrono::steady_clock::now();
  EXPECT_TRUE(Eventually([&] { return served.engine.running() == 0; }));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(4));
}

TEST(Flood, OfOneClientLeavesOthersTheirTurn) {
  ServedOptions options;
  options.open_requests_per_client = 8;
  ServedEngine served(options);
  FrameClient flood(served.endpoint());
  for (int i = 0; i < 3000; ++i) flood.Send(ChatFrame(fmt::format("r{}", i), "endless"));
  FrameClient other(served.endpoint());
  other.Send(ChatFrame("r1", "hello"));
  EXPECT_EQ(other.ReceiveAnswer("r1").back()["text"], "You said: hello");
  EXPECT_LE(served.engine.running(), 8);
}

}  // namespace
}  // namespace tandem::frontend
