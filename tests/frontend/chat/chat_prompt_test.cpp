#include "frontend/chat/chat_prompt.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/fake_text_model.h"

namespace tandem::frontend {
namespace {

using testing::ByteTokens;
using testing::FakeTextModel;
using ::testing::HasSubstr;

std::string Text(std::span<const int32_t> tokens) {
  return std::string(tokens.begin(), tokens.end());
}

ContextPolicy Policy(const char* text) { return *ParseContextPolicy(text); }

std::vector<ChatMessage> LongChat(int turns, size_t bytes) {
  std::vector<ChatMessage> messages{{"system", "Be brief."}};
  for (int i = 0; i < turns; ++i) {
    messages.push_back({"user", fmt::format("q{}", i) + std::string(bytes, 'u')});
    messages.push_back({"assistant", fmt::format("a{}", i) + std::string(bytes, 'a')});
  }
  messages.push_back({"user", "last"});
  return messages;
}

TEST(ContextPolicy, IsReadFromItsName) {
  EXPECT_EQ(Policy("stop"), ContextPolicy{});
  EXPECT_EQ(Policy("shift").kind, ContextPolicy::Kind::kShift);
  EXPECT_EQ(Policy("window:17").window, 17);
  for (const char* wrong : {"", "window", "window:", "window:0", "window:1.5", "Shift"}) {
    EXPECT_THAT(Message(ParseContextPolicy(wrong).status()), HasSubstr(wrong));
  }
}

TEST(ChatPrompt, KeepsTheTokensOfTheHistory) {
  const FakeTextModel model;
  // Tokens that no tokenizer would give for this text show whether they were kept.
  const ChatHistory history{
      .segments = {{"user:", true}, {"Hi", false}, {"\nassistant:", true}, {"Hello", false}},
      .tokens = {1, 2, 3}};
  const std::vector<ChatMessage> messages{{"user", "Hi"}, {"assistant", "Hello"}, {"user", "Bye"}};
  ChatInput input{.messages = messages, .policy = {}, .max_tokens = {}, .history = &history};
  const auto prompt = MakeChatPrompt(model, input);
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  std::vector<int32_t> expected{1, 2, 3};
  const std::vector<int32_t> rest = ByteTokens("\nuser:Bye\nassistant:");
  expected.insert(expected.end(), rest.begin(), rest.end());
  EXPECT_EQ(prompt->whole.tokens, expected);
  EXPECT_EQ(Text(std::span(prompt->tokens()).subspan(3)), "\nuser:Bye\nassistant:");
}

TEST(ChatPrompt, IsRenderedAsItIsAskedFor) {
  const FakeTextModel model;
  const std::vector<ChatMessage> messages{{"user", "Hi"}, {"assistant", "Hel"}};
  ChatInput input{.messages = messages, .policy = {}, .max_tokens = {}};
  const auto text = [&] { return Text(MakeChatPrompt(model, input)->tokens()); };
  EXPECT_EQ(text(), "user:Hi\nassistant:Hel\nassistant:");
  input.render.add_generation_prompt = false;
  EXPECT_EQ(text(), "user:Hi\nassistant:Hel\n");
  input.render.continue_final_message = true;
  EXPECT_EQ(text(), "user:Hi\nassistant:Hel");
  input.render.variables["mood"] = "good";
  EXPECT_EQ(text(), "mood=\"good\"\nuser:Hi\nassistant:Hel");
}

TEST(ChatPrompt, IsEncodedAnewWhereTheTextIsAnother) {
  const FakeTextModel model;
  const std::vector<ChatMessage> messages{{"user", "Hi"}, {"assistant", "Hello"}, {"user", "Bye"}};
  const std::vector<ChatHistory> others = {
      {.segments = {{"user:", true}, {"Ho", false}}, .tokens = {1}},
      {.segments = {{"user:Hi", true}},
       .tokens = {1}},  // now a message says what the template said
      {.segments = {{"user:", true}, {"Hi", false}, {std::string(1000, 'x'), true}}, .tokens = {1}},
      {.segments = {}, .tokens = {}}};
  for (const ChatHistory& history : others) {
    ChatInput input{.messages = messages, .policy = {}, .max_tokens = {}, .history = &history};
    EXPECT_EQ(Text(MakeChatPrompt(model, input)->tokens()),
              "user:Hi\nassistant:Hello\nuser:Bye\nassistant:");
  }
}

TEST(ChatPrompt, WindowTakesTheNewestTokens) {
  const FakeTextModel model(/*context=*/1000);
  const std::vector<ChatMessage> messages = LongChat(3, 100);
  ChatInput input{.messages = messages, .policy = Policy("window:20"), .max_tokens = 5};
  const auto prompt = MakeChatPrompt(model, input);
  EXPECT_EQ(Text(prompt->tokens()), "user:last\nassistant:");
  EXPECT_EQ(prompt->tokens().size(), 20U);
  EXPECT_EQ(prompt->dropped.tokens, static_cast<int64_t>(prompt->whole.tokens.size()) - 20);
  EXPECT_EQ(prompt->dropped.messages, 0);
  // One larger than the context leaves room for the answer.
  input.policy = Policy("window:5000");
  EXPECT_EQ(MakeChatPrompt(model, input)->tokens().size(), model.EncodeChat(messages)->size());
  const std::vector<ChatMessage> longer = LongChat(10, 100);
  input.messages = longer;
  EXPECT_EQ(MakeChatPrompt(model, input)->tokens().size(), 995U);
  input.max_tokens.reset();
  EXPECT_EQ(MakeChatPrompt(model, input)->tokens().size(), 750U);
}

TEST(ChatPrompt, StopLeavesAllAsItIs) {
  const FakeTextModel model(/*context=*/1000);
  const std::vector<ChatMessage> messages = LongChat(3, 100);
  const auto prompt = MakeChatPrompt(model, {.messages = messages, .policy = {}, .max_tokens = {}});
  EXPECT_EQ(prompt->whole.tokens, *model.EncodeChat(messages));
  EXPECT_FALSE(prompt->dropped.any());
}

TEST(ChatPrompt, StopRefusesByBytesWhatCannotFit) {
  // A model that would notice if it were asked to encode.
  class NeverEncodes final : public testing::FakeTextModel {
   public:
    NeverEncodes() : FakeTextModel(/*context=*/100) {}
    absl::StatusOr<std::vector<int32_t>> EncodeRendered(
        std::span<const TextSegment> /*segments*/) const override {
      return Internal("encoded");
    }
  };
  const NeverEncodes model;
  const std::vector<ChatMessage> messages = LongChat(3, 100);
  ChatInput input{.messages = messages, .policy = {}, .max_tokens = {}};
  const absl::Status status = MakeChatPrompt(model, input).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange);
  EXPECT_NE(Message(status).find("holds 100"), std::string::npos) << status;
  input.policy = Policy("shift");
  EXPECT_EQ(Message(MakeChatPrompt(model, input).status()), "encoded");
}

TEST(ChatPrompt, ShiftDropsWholeMessagesAndKeepsTheSystems) {
  const FakeTextModel model(/*context=*/1000);
  const std::vector<ChatMessage> messages = LongChat(10, 50);
  const ChatHistory none;
  const auto prompt = MakeChatPrompt(
      model,
      {.messages = messages, .policy = Policy("shift"), .max_tokens = 100, .history = &none});
  ASSERT_TRUE(prompt.ok());
  const std::string text = Text(prompt->tokens());
  EXPECT_TRUE(text.starts_with("system:Be brief.\nuser:q")) << text;
  EXPECT_TRUE(text.ends_with("\nuser:last\nassistant:")) << text;
  EXPECT_LE(text.size(), 500U) << "half of the context";
  EXPECT_GT(text.size(), 250U) << "and not much less";
  EXPECT_GT(prompt->dropped.messages, 0);
  EXPECT_EQ(prompt->dropped.messages % 2, 0) << "cut before a user's message";
  EXPECT_EQ(prompt->dropped.tokens, prompt->dropped.messages * 52);
}

TEST(ChatPrompt, ShiftedChatsWithoutAHistoryKeepTheirBeginningForManyTurns) {
  const FakeTextModel model(/*context=*/2000);
  std::vector<ChatMessage> messages{{"system", "s"}};
  int64_t cuts = 0;
  int64_t last_dropped = 0;
  constexpr int kTurns = 60;
  for (int turn = 0; turn < kTurns; ++turn) {
    messages.push_back({"user", fmt::format("question {} ", turn) + std::string(60, 'u')});
    const auto prompt =
        MakeChatPrompt(model, {.messages = messages, .policy = Policy("shift"), .max_tokens = 100});
    ASSERT_TRUE(prompt.ok());
    ASSERT_LE(prompt->tokens().size(), 1900U);
    ASSERT_GE(prompt->dropped.messages, last_dropped);
    if (prompt->dropped.messages > last_dropped) ++cuts;
    last_dropped = prompt->dropped.messages;
    messages.push_back({"assistant", fmt::format("answer {} ", turn) + std::string(60, 'a')});
  }
  // A turn is some 160 bytes, a cut frees some 900.
  EXPECT_GE(cuts, 5);
  EXPECT_LE(cuts, kTurns / 4);
}

TEST(ChatPrompt, ShiftOfAConversationGoesOnFromWhereItWasCut) {
  const FakeTextModel model(/*context=*/1000);
  const std::vector<ChatMessage> messages = LongChat(10, 50);
  ChatHistory none;
  ChatInput input{
      .messages = messages, .policy = Policy("shift"), .max_tokens = 100, .history = &none};
  const auto first = MakeChatPrompt(model, input);
  ASSERT_TRUE(first.ok());
  std::vector<ChatMessage> more = messages;
  more.push_back({"assistant", "yes"});
  more.push_back({"user", "and then?"});
  const ChatHistory history = HistoryAfterAnswer(first->whole, "yes", ByteTokens("yes"), 3);
  input.messages = more;
  input.history = &history;
  input.first = first->first;
  input.dropped_tokens = first->dropped_tokens;
  const auto second = MakeChatPrompt(model, input);
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(Text(second->tokens()), Text(first->tokens()) + "yes\nuser:and then?\nassistant:");
  EXPECT_EQ(second->dropped.messages, first->dropped.messages);
  EXPECT_EQ(second->dropped.tokens, first->dropped.tokens);
}

TEST(ChatPrompt, ShiftKeepsTheLastMessageHoweverLong) {
  const FakeTextModel model(/*context=*/300);
  std::vector<ChatMessage> messages = LongChat(3, 50);
  messages.back().content = std::string(1000, 'x');
  const auto prompt =
      MakeChatPrompt(model, {.messages = messages, .policy = Policy("shift"), .max_tokens = 10});
  ASSERT_TRUE(prompt.ok());
  EXPECT_THAT(Text(prompt->tokens()), HasSubstr("system:Be brief.\nuser:xxx"));
}

TEST(HistoryAfterAnswer, LeavesUncertainTextToTheNextTurn) {
  const ChatHistory history = HistoryAfterAnswer({.segments = {{"p", true}}, .tokens = {7}},
                                                 "abcdef", ByteTokens("abc"), 3);
  EXPECT_EQ(history.segments, (std::vector<TextSegment>{{"p", true}, {"abc", false}}));
  EXPECT_EQ(history.tokens, (std::vector<int32_t>{7, 'a', 'b', 'c'}));
}

}  // namespace
}  // namespace tandem::frontend
