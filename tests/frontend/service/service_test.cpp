#include "frontend/service/service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>

#include "tests/support/answer_recorder.h"
#include "tests/support/frame_client.h"
#include "tests/support/served_engine.h"

namespace tandem::frontend {
namespace {

using testing::AnswerRecorder;
using testing::ChatFrame;
using testing::Eventually;
using testing::FakeEngine;
using testing::FrameClient;
using ::testing::HasSubstr;
using testing::JoinedDeltas;
using testing::ServedEngine;
using testing::ServedOptions;
using Json = nlohmann::json;

Request ChatRequest(const std::string& id, const std::string& text) {
  GenerateRequest generate;
  generate.input = std::vector<ChatMessage>{{"user", text}};
  Request request;
  request.id = id;
  request.body = std::move(generate);
  return request;
}

/// What a function with a callback gives, waited for.
template <typename Value, typename Function>
Value Await(const Function& ask) {
  std::promise<Value> promise;
  ask([&](const Value& value) { promise.set_value(value); });
  return promise.get_future().get();
}

TEST(Service, AnswersOtherThreadsInTypes) {
  ServedEngine served;
  auto answer = std::make_shared<AnswerRecorder>();
  Request request = ChatRequest("r1", "hello");
  auto& generate = std::get<GenerateRequest>(request.body);
  generate.samples = 2;
  generate.params.logprobs = 1;
  served.service.Start(ClientName("test", 1), std::move(request), answer);
  answer->Wait();
  const AnswerRecorder::Told told = answer->told();
  EXPECT_EQ(told.accepted, 1);
  ASSERT_TRUE(told.done);
  EXPECT_GT(told.prompt_tokens, 0);
  EXPECT_EQ(told.prompt_tokens, told.done->usage.prompt_tokens) << "known before the first token";
  ASSERT_EQ(told.done->choices.size(), 2U);
  EXPECT_EQ(told.done->usage.completion_tokens, 2 * 15);
  for (size_t i = 0; i < 2; ++i) {
    const AnswerRecorder::Choice& choice = told.choices[i];
    EXPECT_EQ(choice.text, "You said: hello");
    EXPECT_EQ(choice.done_text, choice.text);
    ASSERT_EQ(choice.logprobs.size(), 15U);
    EXPECT_EQ(choice.done_logprobs, choice.logprobs.size());
    EXPECT_EQ(choice.logprobs.front().chosen.token, 'Y');
    EXPECT_EQ(choice.logprobs.front().top.size(), 1U);
  }
  EXPECT_EQ(told.next_seq, static_cast<int64_t>(told.deltas));
}

TEST(Service, CancelEndsAnAnswerWithWhatThereIs) {
  ServedEngine served;
  auto answer = std::make_shared<AnswerRecorder>();
  served.service.Start(ClientName("test", 1), ChatRequest("r1", "endless"), answer);
  ASSERT_TRUE(Eventually([&] { return answer->told().deltas > 3; }));
  served.service.Cancel(ClientName("test", 1), "r1");
  answer->Wait();
  ASSERT_TRUE(answer->told().done);
  EXPECT_EQ(answer->told().done->choices.front().reason, parallel::FinishReason::kCancelled);
  EXPECT_EQ(served.engine.running(), 0);
  // Nobody hears of an id that is not known, unless somebody wants to.
  served.service.Cancel(ClientName("test", 1), "r1");
  auto unknown = std::make_shared<AnswerRecorder>();
  served.service.Cancel(ClientName("test", 1), "r1", unknown);
  unknown->Wait();
  EXPECT_EQ(unknown->told().code, ErrorCode::kNotFound) << "answers of such clients are not kept";
}

TEST(Service, NothingOfAClientThatIsGoneRunsOn) {
  ServedEngine served;
  auto answer = std::make_shared<AnswerRecorder>();
  served.service.Start(ClientName("test", 1), ChatRequest("r1", "endless"), answer);
  auto other = std::make_shared<AnswerRecorder>();
  served.service.Start(ClientName("test", 2), ChatRequest("r1", "endless"), other);
  ASSERT_TRUE(Eventually([&] { return served.engine.running() == 2; }));
  served.service.Gone(ClientName("test", 1));
  ASSERT_TRUE(Eventually([&] { return served.engine.running() == 1; }));
  EXPECT_FALSE(answer->told().ended) << "nobody hears more";
  // One that only shows by what is sent to it is no other.
  other->set_delivery(Delivery::kGone);
  EXPECT_TRUE(Eventually([&] { return served.engine.running() == 0; }));
  EXPECT_FALSE(other->told().ended);
}

TEST(Service, ANoticeIsHeardOnceByEachRequest) {
  ServedEngine served;
  auto one = std::make_shared<AnswerRecorder>(), other = std::make_shared<AnswerRecorder>();
  Request request = ChatRequest("r1", "endless");
  std::get<GenerateRequest>(request.body).samples = 3;
  served.service.Start(ClientName("test", 1), std::move(request), one);
  served.service.Start(ClientName("test", 2), ChatRequest("r1", "endless"), other);
  ASSERT_TRUE(Eventually([&] { return one->told().deltas > 3 && other->told().deltas > 3; }));
  served.engine.Tell({.number = 1, .text = "a pause"});
  served.engine.Tell({.number = 2, .text = "another"});
  ASSERT_TRUE(Eventually([&] { return other->told().notices.size() == 2; }));
  ASSERT_TRUE(Eventually([&] { return one->told().notices.size() == 2; }));
  const size_t deltas = one->told().deltas;
  ASSERT_TRUE(Eventually([&] { return one->told().deltas > deltas + 3; })) << "it goes on";
  EXPECT_EQ(one->told().notices, (std::vector<std::string>{"a pause", "another"}));
}

TEST(Service, WhoDoesNotReadIsCancelled) {
  ServedEngine served;
  auto answer = std::make_shared<AnswerRecorder>();
  answer->set_delivery(Delivery::kOverBudget);
  served.service.Start(ClientName("test", 1), ChatRequest("r1", "endless"), answer);
  answer->Wait();
  EXPECT_EQ(answer->told().code, ErrorCode::kCancelled);
  EXPECT_TRUE(Eventually([&] { return served.engine.running() == 0; }));
}

TEST(Service, LimitsHoldForAllFrontEndsTogether) {
  ServedOptions options;
  options.open_requests = 2;
  ServedEngine served(options);
  FrameClient client(served.endpoint());
  client.Send(ChatFrame("r1", "endless"));
  ASSERT_EQ((*client.Receive())["type"], "accepted");
  auto answer = std::make_shared<AnswerRecorder>();
  served.service.Start(ClientName("test", 1), ChatRequest("r1", "endless"), answer);
  ASSERT_TRUE(Eventually([&] { return answer->told().accepted == 1; }));
  auto refused = std::make_shared<AnswerRecorder>();
  served.service.Start(ClientName("test", 2), ChatRequest("r1", "hello"), refused);
  refused->Wait();
  EXPECT_EQ(refused->told().code, ErrorCode::kOverloaded);
  EXPECT_EQ(refused->told().retry_after, 1);
  EXPECT_THAT(refused->told().message, HasSubstr("2 answers are in progress (0 for this client)"));
  FrameClient other(served.endpoint());
  other.Send(ChatFrame("r2", "hello"));
  EXPECT_EQ(other.ReceiveAnswer("r2").back()["code"], "overloaded");
}

TEST(Service, ConversationsAreThoseOfAllFrontEnds) {
  ServedEngine served;
  FrameClient client(served.endpoint());
  Json turn = ChatFrame("r1", "hello");
  turn["conversation"] = "c1";
  client.Send(turn);
  client.ReceiveAnswer("r1");
  Service& service = served.service;
  const auto fork = Await<absl::Status>([&](Service::CommandAnswer answer) {
    service.ForkConversation({.tenant = "", .conversation = "c1", .to = "c2"}, std::move(answer));
  });
  EXPECT_TRUE(fork.ok()) << fork;
  std::promise<std::vector<std::string>> names;
  service.ListConversations({.tenant = "", .after = "", .limit = 10},
                            [&](const Conversations::Page& page) {
                              std::vector<std::string> found;
                              for (const auto& [name, one] : page.conversations) {
                                found.push_back(name);
                              }
                              names.set_value(std::move(found));
                            });
  EXPECT_THAT(names.get_future().get(), ::testing::ElementsAre("c1", "c2"));
  std::promise<std::vector<ChatMessage>> messages;
  service.GetConversation({.tenant = "", .conversation = "c2"},
                          [&](const absl::StatusOr<const Conversation*>& conversation) {
                            messages.set_value((*conversation)->messages);
                          });
  EXPECT_EQ(messages.get_future().get().back().content, "You said: hello");
  const auto erase = [&](const std::string& name) {
    return Await<absl::Status>([&](Service::CommandAnswer answer) {
      service.DeleteConversation({.tenant = "", .conversation = name}, std::move(answer));
    });
  };
  EXPECT_TRUE(erase("c2").ok());
  EXPECT_TRUE(absl::IsNotFound(erase("c2")));
  const auto status = Await<absl::StatusOr<ServiceStatus>>(
      [&](Service::StatusAnswer answer) { service.Status(std::move(answer)); });
  ASSERT_TRUE(status.ok()) << status.status();
  EXPECT_EQ(status->conversations, 1);
  EXPECT_EQ(status->answered_requests, 1U);
  EXPECT_EQ(status->refused.at(ErrorCode::kNotFound), 1U);
  EXPECT_EQ(status->engine.ranks.size(), 1U);
}

TEST(Service, DrainsWhatIsInProgressAndTakesNothingNew) {
  ServedEngine served;
  FrameClient client(served.endpoint());
  served.engine.Hold(true);
  client.Send(ChatFrame("r1", "hello"));
  ASSERT_EQ((*client.Receive())["type"], "accepted");
  auto running = std::make_shared<AnswerRecorder>();
  served.service.Start(ClientName("test", 1), ChatRequest("r1", "hello"), running);
  ASSERT_TRUE(Eventually([&] { return running->told().accepted == 1; }));
  EXPECT_TRUE(served.service.ready());
  served.service.Drain(std::chrono::minutes(10));
  EXPECT_TRUE(served.service.draining());
  EXPECT_FALSE(served.service.ready());
  client.Send({{"v", 1}, {"type", "ping"}, {"id", "p"}});
  EXPECT_EQ((*client.Receive())["ready"], false);
  client.Send(ChatFrame("r2", "hello"));
  const Json refused = client.ReceiveAnswer("r2").back();
  EXPECT_EQ(refused["code"], "unavailable");
  EXPECT_EQ(refused["retry_after"], 5);
  EXPECT_THAT(refused["message"].get<std::string>(), HasSubstr("draining"));
  auto late = std::make_shared<AnswerRecorder>();
  served.service.Start(ClientName("test", 2), ChatRequest("r1", "hello"), late);
  late->Wait();
  EXPECT_EQ(late->told().code, ErrorCode::kUnavailable);
  EXPECT_EQ(late->told().retry_after, 5);
  served.engine.Hold(false);
  EXPECT_EQ(client.ReceiveAnswer("r1").back()["text"], "You said: hello");
  running->Wait();
  EXPECT_EQ(running->told().choices.front().text, "You said: hello");
  EXPECT_TRUE(served.Join().ok());
}

TEST(Service, ADrainEndsAtOnceWhereNothingRuns) {
  ServedEngine served;
  served.service.Drain(std::chrono::minutes(10));
  EXPECT_TRUE(served.Join().ok());
}

TEST(Service, ADrainThatTakesTooLongEndsWithAReason) {
  ServedEngine served;
  auto answer = std::make_shared<AnswerRecorder>();
  served.service.Start(ClientName("test", 1), ChatRequest("r1", "endless"), answer);
  ASSERT_TRUE(Eventually([&] { return answer->told().deltas > 0; }));
  served.service.Drain(std::chrono::milliseconds(100));
  EXPECT_TRUE(served.Join().ok());
  EXPECT_EQ(answer->told().code, ErrorCode::kUnavailable);
  EXPECT_THAT(answer->told().message, HasSubstr("within the 0.1 s that --drain-timeout gives"));
  EXPECT_TRUE(Eventually([&] { return served.engine.running() == 0; }));
}

TEST(Service, StopEndsADrain) {
  ServedEngine served;
  auto answer = std::make_shared<AnswerRecorder>();
  served.service.Start(ClientName("test", 1), ChatRequest("r1", "endless"), answer);
  ASSERT_TRUE(Eventually([&] { return answer->told().deltas > 0; }));
  served.service.Drain(std::chrono::minutes(10));
  served.service.Stop();
  EXPECT_TRUE(served.Join().ok());
  EXPECT_EQ(answer->told().code, ErrorCode::kUnavailable);
  EXPECT_EQ(answer->told().message, "the server is shutting down");
}

}  // namespace
}  // namespace tandem::frontend
