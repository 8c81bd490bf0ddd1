#include "frontend/server/server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "tests/support/frame_client.h"
#include "tests/support/served_engine.h"

namespace tandem::frontend {
namespace {

using testing::ChatFrame;
using testing::Eventually;
using testing::FrameClient;
using ::testing::HasSubstr;
using testing::JoinedDeltas;
using testing::ServedEngine;
using testing::ServedOptions;
using Json = nlohmann::json;

TEST(Server, StreamsAChat) {
  ServedEngine served;
  FrameClient client(served.endpoint());
  client.Send(ChatFrame("r1", "naïve 🚲"));
  const std::vector<Json> frames = client.ReceiveAnswer("r1");
  ASSERT_GE(frames.size(), 3U);
  EXPECT_EQ(frames.front(), Json({{"v", 1}, {"id", "r1"}, {"type", "accepted"}}));
  EXPECT_EQ(JoinedDeltas(frames), "You said: naïve 🚲");
  const Json& done = frames.back();
  EXPECT_EQ(done["type"], "done");
  EXPECT_EQ(done["finish_reason"], "stop");
  EXPECT_EQ(done["text"], "You said: naïve 🚲");
  const std::string prompt = "user:naïve 🚲\nassistant:";
  EXPECT_EQ(done["usage"]["prompt_tokens"], prompt.size());
  EXPECT_EQ(done["usage"]["completion_tokens"], 21);
  EXPECT_EQ(done["usage"]["reused_tokens"], 0);
  EXPECT_EQ(done["usage"]["computed_tokens"], prompt.size() + 20);
  EXPECT_EQ(done["usage"]["reuse_limit"], "nothing_known");
  EXPECT_EQ(done["usage"]["reused_from"],
            Json({{"device", 0}, {"host", 0}, {"disk", 0}, {"remote", 0}}));
  EXPECT_FALSE(done.contains("choices"));
  EXPECT_FALSE(done.contains("dropped"));
  EXPECT_FALSE(done.contains("seed")) << "greedy answers draw no seed";
  EXPECT_TRUE(done.contains("timings"));
}

TEST(Server, StreamsTwoChatsAtOnceAndCancelsOne) {
  ServedEngine served;
  FrameClient client(served.endpoint());
  client.Send(ChatFrame("long", "endless"));
  client.Send(ChatFrame("short", "hello"));
  const std::vector<Json> brief = client.ReceiveAnswer("short");
  EXPECT_EQ(JoinedDeltas(brief), "You said: hello");
  client.Send({{"v", 1}, {"type", "cancel"}, {"id", "long"}});
  const std::vector<Json> frames = client.ReceiveAnswer("long");
  EXPECT_EQ(frames.back()["type"], "done");
  EXPECT_EQ(frames.back()["finish_reason"], "cancelled");
  EXPECT_EQ(frames.back()["text"], JoinedDeltas(frames));
  EXPECT_EQ(served.engine.running(), 0);
}

TEST(Server, CancelOfAnUnknownIdIsNotFoundAndOfAFinishedOneIsItsDone) {
  ServedEngine served;
  FrameClient client(served.endpoint());
  client.Send({{"v", 1}, {"type", "cancel"}, {"id", "nope"}});
  EXPECT_EQ(client.ReceiveAnswer("nope").back()["code"], "not_found");
  client.Send(ChatFrame("r1", "x"));
  const Json done = client.ReceiveAnswer("r1").back();
  client.Send({{"v", 1}, {"type", "cancel"}, {"id", "r1"}});
  EXPECT_EQ(client.ReceiveAnswer("r1").back(), done);
  FrameClient other(served.endpoint());
  other.Send({{"v", 1}, {"type", "cancel"}, {"id", "r1"}});
  EXPECT_EQ(other.ReceiveAnswer("r1").back()["code"], "not_found") << "ids belong to a connection";
}

TEST(Server, TheSameIdNeverRunsTwice) {
  ServedEngine served;
  FrameClient client(served.endpoint());
  const Json request = ChatFrame("r1", "once");
  served.engine.Hold(true);
  client.Send(request);
  client.Send(request);  // while it runs
  ASSERT_TRUE(Eventually([&] { return served.engine.submitted() == 1; }));
  EXPECT_EQ((*client.Receive())["type"], "accepted");
  EXPECT_EQ((*client.Receive())["type"], "accepted");
  served.engine.Hold(false);
  const std::vector<Json> first = client.ReceiveAnswer("r1");
  client.Send(request);  // when it is done: the same frames again
  const std::vector<Json> again = client.ReceiveAnswer("r1");
  ASSERT_EQ(again.size(), first.size() + 1);
  EXPECT_EQ(again.front()["type"], "accepted");
  EXPECT_TRUE(std::equal(first.begin(), first.end(), again.begin() + 1));
  EXPECT_EQ(served.engine.submitted(), 1);

  client.Send(ChatFrame("r1", "something else"));
  const Json refused = client.ReceiveAnswer("r1").back();
  EXPECT_EQ(refused["code"], "invalid_argument");
  EXPECT_THAT(refused["message"].get<std::string>(), HasSubstr("another request"));
  EXPECT_EQ(served.engine.submitted(), 1);
}

TEST(Server, ARepeatInMidAnswerGetsTheDeltasSoFar) {
  ServedEngine served;
  FrameClient client(served.endpoint());
  client.Send(ChatFrame("r1", "endless"));
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(client.Receive());
  served.engine.Hold(true);
  client.Send(ChatFrame("r1", "endless"));
  Json frame;
  while (frame["type"] != "accepted") frame = *client.Receive();
  served.engine.Hold(false);
  client.Send({{"v", 1}, {"type", "cancel"}, {"id", "r1"}});
  const std::vector<Json> frames = client.ReceiveAnswer("r1");
  EXPECT_EQ(JoinedDeltas(frames), frames.back()["text"]) << "from seq 0 without a gap";
  EXPECT_EQ(served.engine.submitted(), 1);
}

TEST(Server, StopStringsEndTheAnswerAndTheEnginesWork) {
  ServedEngine served;
  FrameClient client(served.endpoint());
  Json request = ChatFrame("r1", "endless");
  request["stop"] = {"er ov", "zzz"};
  client.Send(request);
  const std::vector<Json> frames = client.ReceiveAnswer("r1");
  EXPECT_EQ(JoinedDeltas(frames), "over and ov");
  EXPECT_EQ(frames.back()["text"], "over and ov");
  EXPECT_EQ(frames.back()["finish_reason"], "stop");
  EXPECT_EQ(frames.back()["usage"]["completion_tokens"], 16) << "those of the stop string included";
  EXPECT_EQ(served.engine.running(), 0);
}

TEST(Server, StopStringsOfTheFirstTokensEndNothing) {
  ServedEngine served;
  FrameClient client(served.endpoint());
  Json request = ChatFrame("r1", "endless");
  request["stop"] = "over";
  request["min_tokens"] = 4;
  client.Send(request);
  const Json done = client.ReceiveAnswer("r1").back();
  EXPECT_EQ(done["text"], "over and ");
  EXPECT_EQ(done["finish_reason"], "stop");
  request["id"] = "r2";
  request["max_tokens"] = 3;
  client.Send(request);
  EXPECT_EQ(client.ReceiveAnswer("r2").back()["message"],
            "min_tokens: 4 is more than max_tokens, 3");
  request["id"] = "r3";
  request["min_tokens"] = request["max_tokens"] = 9999999;
  client.Send(request);
  const Json refused = client.ReceiveAnswer("r3").back();
  EXPECT_EQ(refused["code"], "invalid_argument");
  EXPECT_THAT(
      refused["message"].get<std::string>(),
      ::testing::HasSubstr("min_tokens: 9999999 is more than the context has for an answer"));
}

TEST(Server, TheTemplatesStopStringsHoldForChatsOnly) {
  ServedEngine served({}, std::chrono::microseconds(200), /*context=*/4096, {"said"});
  FrameClient client(served.endpoint());
  client.Send(ChatFrame("r1", "x"));
  EXPECT_EQ(client.ReceiveAnswer("r1").back()["text"], "You ");
  client.Send({{"v", 1}, {"type", "complete"}, {"id", "r2"}, {"prompt", "x"}});
  EXPECT_EQ(client.ReceiveAnswer("r2").back()["text"], "You said: x");
  client.Send({{"v", 1}, {"type", "complete"}, {"id", "r3"}, {"tokens", {104, 105}}});
  EXPECT_EQ(client.ReceiveAnswer("r3").back()["text"], "You said: hi");
}

TEST(Server, MaxTokensAndTheContextEndWithLength) {
  ServedEngine served({}, std::chrono::microseconds(0), /*context=*/64);
  FrameClient client(served.endpoint());
  Json request = ChatFrame("r1", "endless");
  request["max_tokens"] = 7;
  client.Send(request);
  Json done = client.ReceiveAnswer("r1").back();
  EXPECT_EQ(done["finish_reason"], "length");
  EXPECT_EQ(done["text"], "over an");
  client.Send(ChatFrame("r2", "endless"));
  done = client.ReceiveAnswer("r2").back();
  EXPECT_EQ(done["finish_reason"], "length");
  EXPECT_EQ(
      done["usage"]["prompt_tokens"].get<int>() + done["usage"]["completion_tokens"].get<int>(),
      64);
  client.Send(ChatFrame("r3", std::string(100, 'x')));
  const Json error = client.ReceiveAnswer("r3").back();
  EXPECT_EQ(error["code"], "invalid_argument");
  EXPECT_THAT(error["message"].get<std::string>(), HasSubstr("holds 64"));
}

TEST(Server, DrawsASeedWhereItSamplesAndTellsIt) {
  ServedEngine served;
  FrameClient client(served.endpoint());
  Json request = ChatFrame("r1", "x");
  request["temperature"] = 0.5;
  client.Send(request);
  const Json drawn = client.ReceiveAnswer("r1").back()["seed"];
  request["id"] = "r2";
  request["seed"] = 18446744073709551615U;
  client.Send(request);
  EXPECT_EQ(client.ReceiveAnswer("r2").back()["seed"], 18446744073709551615U);
  const auto requests = served.engine.requests();
  EXPECT_EQ(requests[0].sampling.seed, drawn.get<uint64_t>());
  EXPECT_EQ(requests[1].sampling.seed, 18446744073709551615U);
  EXPECT_FLOAT_EQ(requests[0].sampling.temperature, 0.5F);
}

TEST(Server, PingAndStatus) {
  ServedEngine served;
  FrameClient client(served.endpoint());
  client.Send({{"v", 1}, {"type", "ping"}, {"id", "p"}});
  EXPECT_EQ(*client.Receive(), Json({{"v", 1}, {"id", "p"}, {"type", "pong"}, {"ready", true}}));
  client.Send({{"type", "ping"}});
  EXPECT_EQ(*client.Receive(), Json({{"v", 1}, {"type", "pong"}, {"ready", true}}));
  client.Send(ChatFrame("long", "endless"));
  client.Send({{"v", 1}, {"type", "status"}, {"id", "s"}});
  Json status;
  while (status["type"] != "status") status = *client.Receive();
  EXPECT_EQ(status["id"], "s");
  EXPECT_EQ(status["ranks"][0]["host"], "fakehost");
  EXPECT_EQ(status["ranks"][0]["reduce_seconds"], 1.5);
  EXPECT_EQ(status["ranks"][0]["weights_mapped"], true);
  EXPECT_FALSE(status.contains("http"));
  EXPECT_EQ(status["requests"]["open"], 1);
  EXPECT_EQ(status["model"]["context"], 4096);
  EXPECT_TRUE(status.contains("pages"));
  EXPECT_TRUE(status.contains("rates"));
}

TEST(Server, BadFramesGetAnErrorFrameAndTheServerGoesOn) {
  ServedOptions options;
  options.limits.frame_bytes = 4096;
  ServedEngine served(options);
  FrameClient client(served.endpoint());
  const auto code_for = [&](const std::vector<std::string>& frames) {
    client.SendRaw(frames);
    const std::optional<Json> answer = client.Receive();
    EXPECT_TRUE(answer);
    EXPECT_EQ((*answer)["type"], "error");
    EXPECT_FALSE((*answer)["message"].get<std::string>().empty());
    return (*answer)["code"].get<std::string>();
  };
  EXPECT_EQ(code_for({"{"}), "invalid_argument");
  EXPECT_EQ(code_for({std::string("\0\xff\xfe", 3)}), "invalid_argument");
  EXPECT_EQ(code_for({std::string("\0", 1), ""}), "invalid_argument");
  EXPECT_EQ(code_for({"a", "b", "c"}), "invalid_argument");
  EXPECT_EQ(code_for({std::string(4097, ' ')}), "too_large");
  EXPECT_EQ(code_for({std::string(60000, 'x')}), "too_large");
  EXPECT_EQ(code_for({std::string(4000, '[')}), "invalid_argument");
  EXPECT_EQ(code_for({R"({"v":1,"type":"resume","id":"r","last_seq":0})"}), "not_found");
  EXPECT_EQ(code_for({R"({"v":1,"type":"chat","id":"r","messages":[{"role":"assistant",)"
                      R"("content":"x"}]})"}),
            "invalid_argument");
  client.Send(ChatFrame("r1", "still here"));
  EXPECT_EQ(client.ReceiveAnswer("r1").back()["text"], "You said: still here");
  client.SendRaw({""});
  EXPECT_EQ((*client.Receive())["code"], "invalid_argument");
}

TEST(Server, NamesWhatItRefusesAndCountsIt) {
  ServedOptions options;
  options.limits.frame_bytes = 4096;
  ServedEngine served(options);
  FrameClient client(served.endpoint());
  client.SendRaw({R"({"v":1,"id":"large","type":"chat","messages":[{"role":"user","content":")" +
                  std::string(60000, 'x') + R"("}]})"});
  std::optional<Json> answer = client.Receive();
  EXPECT_EQ((*answer)["code"], "too_large");
  EXPECT_EQ((*answer)["id"], "large");
  client.SendRaw({R"({"v":1,"id":"cut","type":)"});
  EXPECT_EQ((*client.Receive())["id"], "cut");
  Json chat = ChatFrame("r1", "x");
  chat["guided_json"] = Json::object();
  client.Send(chat);
  EXPECT_EQ((*client.Receive())["code"], "unimplemented");
  chat = ChatFrame("r1", "still here");
  chat["zeal"] = 1;
  client.Send(chat);
  EXPECT_EQ(client.ReceiveAnswer("r1").back()["text"], "You said: still here");
  client.Send({{"type", "status"}, {"id", "s"}});
  const Json status = *client.Receive();
  EXPECT_EQ(status["refused"],
            Json({{"too_large", 1}, {"invalid_argument", 1}, {"unimplemented", 1}}));
  EXPECT_EQ(status["refused_frames"], 3);
  EXPECT_EQ(status["unknown_fields"], 1);
}

TEST(Server, AnswersAReqSocketToo) {
  ServedEngine served;
  FrameClient client(served.endpoint(), {.identity = "", .type = zmq::socket_type::req});
  client.Send({{"v", 1}, {"type", "ping"}, {"id", "p"}});
  EXPECT_EQ((*client.Receive())["type"], "pong");
}

TEST(Server, LimitsOpenRequests) {
  ServedOptions options;
  options.open_requests_per_client = 2;
  ServedEngine served(options);
  served.engine.set_capacity(3);
  FrameClient client(served.endpoint());
  client.Send(ChatFrame("r1", "endless"));
  client.Send(ChatFrame("r2", "endless"));
  client.Send(ChatFrame("r3", "endless"));
  EXPECT_EQ(client.ReceiveAnswer("r3").back()["code"], "overloaded");
  FrameClient other(served.endpoint());
  other.Send(ChatFrame("r1", "endless"));
  EXPECT_EQ((*other.Receive())["type"], "accepted");
  other.Send(ChatFrame("r2", "endless"));
  const Json error = other.ReceiveAnswer("r2").back();
  EXPECT_EQ(error["code"], "overloaded") << "the engine's own limit";
  EXPECT_THAT(error["message"].get<std::string>(), HasSubstr("full"));
}

TEST(Server, ADeadlineEndsTheRequest) {
  ServedEngine served;
  FrameClient client(served.endpoint());
  Json request = ChatFrame("r1", "endless");
  request["deadline"] = 0.05;
  client.Send(request);
  EXPECT_EQ(client.ReceiveAnswer("r1").back()["code"], "deadline_exceeded");
  EXPECT_TRUE(Eventually([&] { return served.engine.running() == 0; }));
}

TEST(Server, AHundredClientsThatVanishLeaveNothingRunning) {
  ServedOptions server_options;
  server_options.resume_grace = std::chrono::milliseconds(50);
  ServedEngine served(server_options, std::chrono::milliseconds(1));
  FrameClient witness(served.endpoint());
  witness.Send(ChatFrame("w", "endless"));
  for (int i = 0; i < 100; ++i) {
    FrameClient::Options options;
    if (i % 2 == 0) options.identity = fmt::format("client-{}", i);
    FrameClient client(served.endpoint(), options);
    client.Send(ChatFrame("r1", "endless"));
    ASSERT_EQ((*client.Receive())["type"], "accepted");
    if (i % 3 == 0) {
      ASSERT_EQ((*client.Receive())["type"], "delta");
    }
    client.Vanish();
  }
  EXPECT_TRUE(Eventually([&] { return served.engine.running() == 1; }))
      << served.engine.running() << " requests run";
  witness.Send({{"v", 1}, {"type", "cancel"}, {"id", "w"}});
  EXPECT_EQ(witness.ReceiveAnswer("w").back()["finish_reason"], "cancelled");
}

TEST(Server, AClientThatVanishesBeforeTheFirstTokenIsNoticed) {
  ServedEngine served;
  served.engine.Hold(true);
  {
    FrameClient client(served.endpoint());
    client.Send(ChatFrame("r1", "endless"));
    ASSERT_TRUE(client.Receive());
    client.Vanish();
  }
  EXPECT_TRUE(Eventually([&] { return served.engine.running() == 0; }))
      << "nothing is sent to it, so only the connection tells";
}

TEST(Server, AClientThatComesBackUnderItsNameGetsItsAnswer) {
  ServedEngine served;
  {
    FrameClient client(served.endpoint(), {.identity = "alice"});
    client.Send(ChatFrame("r1", "hello"));
    client.ReceiveAnswer("r1");
    client.Vanish();
  }
  FrameClient again(served.endpoint(), {.identity = "alice"});
  again.Send(ChatFrame("r1", "hello"));
  EXPECT_EQ(again.ReceiveAnswer("r1").back()["text"], "You said: hello");
  EXPECT_EQ(served.engine.submitted(), 1);
}

TEST(Server, AClientThatDoesNotReadIsCancelledWithAReason) {
  ServedOptions options;
  options.client_budget_bytes = 20000;
  ServedEngine served(options, std::chrono::microseconds(0), /*context=*/1 << 20);
  FrameClient witness(served.endpoint());
  FrameClient sleeper(served.endpoint(),
                      {.identity = "sleeper", .receive_queue = 1, .kernel_bytes = 4096});
  for (int i = 0; i < 20; ++i) sleeper.Send(ChatFrame(fmt::format("r{}", i), "endless"));
  ASSERT_TRUE(Eventually([&] { return served.engine.submitted() == 20; }));
  EXPECT_TRUE(Eventually([&] { return served.engine.running() == 0; }));
  witness.Send(ChatFrame("w", "are you well?"));
  EXPECT_EQ(witness.ReceiveAnswer("w").back()["text"], "You said: are you well?");
  for (int i = 0; i < 20; ++i) {
    const Json error = sleeper.ReceiveAnswer(fmt::format("r{}", i)).back();
    EXPECT_EQ(error["code"], "cancelled");
    EXPECT_THAT(error["message"].get<std::string>(), HasSubstr("does not read"));
  }
}

TEST(Server, TheEnginesDeathIsAnsweredEverywhereAndEndsTheServer) {
  ServedEngine served;
  FrameClient one(served.endpoint());
  FrameClient two(served.endpoint());
  one.Send(ChatFrame("r1", "endless"));
  one.Send(ChatFrame("r2", "endless"));
  two.Send(ChatFrame("r1", "endless"));
  ASSERT_TRUE(Eventually([&] { return served.engine.running() == 3; }));
  served.engine.Die(Unavailable("rank 2 on host node7 died"));
  for (const Json& error : {one.ReceiveAnswer("r1").back(), one.ReceiveAnswer("r2").back(),
                            two.ReceiveAnswer("r1").back()}) {
    EXPECT_EQ(error["code"], "unavailable");
    EXPECT_EQ(error["message"], "rank 2 on host node7 died");
  }
  const absl::Status status = served.Join();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Message(status), "rank 2 on host node7 died");
}

TEST(Server, StopAnswersWhatIsOpen) {
  ServedEngine served;
  FrameClient client(served.endpoint());
  client.Send(ChatFrame("r1", "endless"));
  ASSERT_TRUE(client.Receive());
  served.service.Stop();
  EXPECT_EQ(client.ReceiveAnswer("r1").back()["code"], "unavailable");
  EXPECT_TRUE(served.Join().ok());
  EXPECT_TRUE(Eventually([&] { return served.engine.running() == 0; }));
}

TEST(Server, RefusesEndpointsThatCannotBeHad) {
  ServedEngine served;
  const auto failure = [&](const std::string& endpoint) {
    ServedOptions options;
    options.endpoint = endpoint;
    const auto server = Server::Create(options, served.service);
    EXPECT_FALSE(server.ok()) << endpoint;
    EXPECT_THAT(Message(server.status()), HasSubstr(endpoint));
    EXPECT_EQ(Message(server.status()).find('\n'), std::string::npos);
    return server.status();
  };
  const absl::Status in_use = failure(served.endpoint());
  EXPECT_EQ(in_use.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(in_use), HasSubstr("in use"));
  for (const char* wrong : {"", "5555", "tcp://", "tcp://127.0.0.1", "tcp://127.0.0.1:99999",
                            "http://127.0.0.1:80", "inproc://x", "ipc://"}) {
    EXPECT_EQ(failure(wrong).code(), absl::StatusCode::kInvalidArgument) << wrong;
  }
  EXPECT_EQ(failure("tcp://192.0.2.1:5555").code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(failure("ipc:///no/such/folder/socket").code(), absl::StatusCode::kFailedPrecondition);
}

TEST(Server, ServesOnAnIpcPathThatNobodyElseCanTake) {
  const std::string path = fmt::format("{}tandem-{}.sock", ::testing::TempDir(), getpid());
  ServedOptions options;
  options.endpoint = "ipc://" + path;
  {
    ServedEngine served(options);
    FrameClient client(served.endpoint());
    client.Send(ChatFrame("r1", "x"));
    EXPECT_EQ(client.ReceiveAnswer("r1").back()["text"], "You said: x");
    EXPECT_EQ(std::filesystem::status(path).permissions(),
              std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
    const auto second = Server::Create(options, served.service);
    EXPECT_THAT(Message(second.status()), HasSubstr("in use"));
    client.Send(ChatFrame("r2", "y"));
    EXPECT_EQ(client.ReceiveAnswer("r2").back()["text"], "You said: y");
  }
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace tandem::frontend
