#include "frontend/chat/generation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "frontend/text/utf8.h"
#include "tests/support/fake_engine.h"
#include "tests/support/fake_text_model.h"

namespace tandem::frontend {
namespace {

using testing::ByteTokens;
using testing::FakeEngine;
using testing::FakeTextModel;
using ::testing::HasSubstr;

/// What Push and Finish give for these pieces.
std::string Through(StopStrings stop, const std::vector<std::string>& pieces) {
  std::string out;
  for (const std::string& piece : pieces) out += stop.Push(piece);
  return out + stop.Finish();
}

TEST(StopStrings, AreFoundAcrossPieces) {
  EXPECT_EQ(Through(StopStrings({"STOP"}), {"go S", "TO", "P on"}), "go ");
  EXPECT_EQ(Through(StopStrings({"STOP"}), {"go STO", "Gether"}), "go STOGether");
  EXPECT_EQ(Through(StopStrings({"STOP"}), {"go STO"}), "go STO") << "no stop string after all";
  EXPECT_EQ(Through(StopStrings({"aab"}), {"a", "a", "a", "b", "c"}), "a");
  EXPECT_EQ(Through(StopStrings({"long end", "end"}), {"a long ", "end"}), "a ");
  EXPECT_EQ(Through(StopStrings({"b", "a"}), {"xxab"}), "xx") << "the first to be complete counts";
  EXPECT_EQ(Through(StopStrings({""}), {"abc"}), "abc");
  EXPECT_EQ(Through(StopStrings({"é"}), {"caf", "é", "s"}), "caf");
}

TEST(StopStrings, GiveOutAllThatIsCertain) {
  StopStrings stop({"</end>", "\n\n"});
  EXPECT_EQ(stop.Push("a<"), "a");
  EXPECT_EQ(stop.Push("b\n"), "<b");
  EXPECT_EQ(stop.Push("c"), "\nc");
  EXPECT_FALSE(stop.matched());
  EXPECT_EQ(stop.Push("\n\nmore"), "");
  EXPECT_TRUE(stop.matched());
  EXPECT_EQ(stop.match(), "\n\n");
  EXPECT_EQ(stop.Push("and more"), "");
  EXPECT_EQ(stop.Finish(), "");
}

TEST(StopStrings, EqualAPlainSearchHoweverTheTextIsCut) {
  std::mt19937 random(7);
  for (int round = 0; round < 3000; ++round) {
    const auto word = [&](size_t length) {
      std::string text;
      while (text.size() < length) text.push_back("ab"[random() % 2]);
      return text;
    };
    std::vector<std::string> stops;
    for (size_t i = 0; i <= random() % 3; ++i) stops.push_back(word(1 + random() % 6));
    const std::string text = word(random() % 40);
    size_t first = text.size();
    for (size_t end = 1; end <= text.size() && first == text.size(); ++end) {
      for (const std::string& stop : stops) {
        if (text.substr(0, end).ends_with(stop)) first = std::min(first, end - stop.size());
      }
    }
    std::vector<std::string> pieces;
    for (size_t i = 0; i < text.size();) {
      pieces.push_back(text.substr(i, 1 + random() % 4));
      i += pieces.back().size();
    }
    ASSERT_EQ(Through(StopStrings(stops), pieces), text.substr(0, first)) << text;
  }
}

TEST(StopStrings, DoNotCountWhereTheTextMayNotEnd) {
  const auto through = [](StopStrings stop, const std::string& first, const std::string& second) {
    std::string text = stop.Push(first, /*may_end=*/false);
    text += stop.Push(second);
    return text + stop.Finish();
  };
  EXPECT_EQ(through(StopStrings({"ab"}), "xabyab", "zab!"), "xabyabz");
  EXPECT_EQ(through(StopStrings({"ab"}), "xaby", "z"), "xabyz");
  EXPECT_EQ(through(StopStrings({"abc"}), "xab", "cd"), "x") << "it is complete in the second";
  // What is held back as the beginning of one holds another, which was complete too early.
  EXPECT_EQ(through(StopStrings({"aba!", "ab"}), "xaba", "b?"), "xab");
  EXPECT_EQ(through(StopStrings({"aba!", "ab"}), "xaba", "?"), "xaba?");
}

TEST(AnswerWriter, GoesOnBeyondStopStringsOfTheFirstTokens) {
  const FakeTextModel model;  // a byte a token
  const auto written = [&](int32_t min_tokens) {
    AnswerWriter writer(model.NewStream(), {"b"}, min_tokens);
    std::string text = writer.Append(ByteTokens("ab"));
    text += writer.Append(ByteTokens("ab"));
    text += writer.Finish();
    EXPECT_EQ(text, writer.text());
    return std::pair(text, writer.stopped());
  };
  EXPECT_EQ(written(0), std::pair(std::string("a"), true));
  EXPECT_EQ(written(1), std::pair(std::string("a"), true));
  EXPECT_EQ(written(2), std::pair(std::string("aba"), true));
  EXPECT_EQ(written(4), std::pair(std::string("abab"), false));
}

TEST(AnswerWriter, NeverSplitsACharacter) {
  const FakeTextModel model;
  AnswerWriter writer(model.NewStream(), {"🚲"});
  std::string joined;
  for (const int32_t token : ByteTokens("né漢🚀 🚲 never")) {
    const std::string delta = writer.Append(std::span(&token, 1));
    EXPECT_EQ(ValidUtf8Prefix(delta), delta.size());
    joined += delta;
  }
  EXPECT_EQ(joined, "né漢🚀 ");
  EXPECT_EQ(writer.text(), joined);
  EXPECT_TRUE(writer.stopped());
  EXPECT_EQ(writer.tokens(), 15) << "up to the token that completed the stop string";
  const Answer answer = writer.Result({.reason = parallel::FinishReason::kCancelled,
                                       .status = absl::OkStatus(),
                                       .usage = {.prompt_tokens = 3, .completion_tokens = 17}});
  EXPECT_EQ(answer.reason, parallel::FinishReason::kStop);
  EXPECT_EQ(answer.usage.prompt_tokens, 3);
  EXPECT_EQ(answer.usage.completion_tokens, 15);
}

TEST(AnswerWriter, EndsAnUnfinishedCharacterVisibly) {
  const FakeTextModel model;
  AnswerWriter writer(model.NewStream(), {});
  const std::vector<int32_t> tokens = {0x61, 0xF0, 0x9F};
  EXPECT_EQ(writer.Append(tokens), "a");
  EXPECT_EQ(writer.Finish(), "\uFFFD");
  EXPECT_EQ(writer.text(), "a\uFFFD");
}

TEST(MakeEngineRequest, FillsInTheRestOfTheContextAndChecks) {
  const FakeTextModel model(/*context=*/100);
  const auto made = [&](std::vector<int32_t> prompt, const GenerationParams& params = {}) {
    return MakeEngineRequest(model, std::move(prompt), params);
  };
  EXPECT_EQ(made({1, 2, 3})->max_tokens, 97);
  EXPECT_EQ(made({1}, {.max_tokens = 5, .sampling = {}, .seed = {}, .stop = {}})->max_tokens, 5);
  EXPECT_EQ(made({1}, {.max_tokens = 500, .sampling = {}, .seed = {}, .stop = {}})->max_tokens, 99);
  EXPECT_EQ(made(std::vector<int32_t>(100, 1))->max_tokens, 0);
  EXPECT_EQ(made({1})->stop_tokens, std::vector<int32_t>{FakeTextModel::kEnd});
  const absl::Status long_prompt = made(std::vector<int32_t>(101, 1)).status();
  EXPECT_EQ(long_prompt.code(), absl::StatusCode::kOutOfRange);
  EXPECT_THAT(Message(long_prompt), HasSubstr("101 tokens"));
  EXPECT_EQ(made({}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(made({257}).status()), HasSubstr("0 to 256"));
  EXPECT_FALSE(made({-1}).ok());
  GenerationParams biased;
  biased.sampling.logit_bias = {{999, 1.0F}};
  EXPECT_THAT(Message(made({1}, biased).status()), HasSubstr("logit_bias: token 999"));
}

TEST(MakeEngineRequest, WithholdsWhatEndsTheAnswerWhereItIsToBeLonger) {
  const FakeTextModel model(/*context=*/100);
  GenerationParams params;
  params.stop_tokens = {7};
  params.sampling.end_tokens = {1};
  EXPECT_TRUE(MakeEngineRequest(model, {1}, params)->sampling.end_tokens.empty());
  params.min_tokens = 5;
  EXPECT_EQ(MakeEngineRequest(model, {1}, params)->sampling.min_tokens, 5);
  EXPECT_EQ(MakeEngineRequest(model, {1}, params)->sampling.end_tokens,
            (std::vector<int32_t>{7, FakeTextModel::kEnd}));
  params.ignore_eos = true;
  EXPECT_EQ(MakeEngineRequest(model, {1}, params)->sampling.end_tokens, std::vector<int32_t>{7});
  params.max_tokens = 5;
  EXPECT_TRUE(MakeEngineRequest(model, {1}, params).ok());
  params.max_tokens = 4;
  EXPECT_EQ(MakeEngineRequest(model, {1}, params).status(),
            InvalidArgument("min_tokens: 5 is more than max_tokens, 4"));
}

TEST(MakeEngineRequest, RefusesMoreTokensAtLeastThanThereCanBe) {
  const FakeTextModel model(/*context=*/100);
  GenerationParams params;
  params.min_tokens = 97;
  EXPECT_TRUE(MakeEngineRequest(model, {1, 2, 3}, params).ok());
  params.min_tokens = 98;
  EXPECT_EQ(MakeEngineRequest(model, {1, 2, 3}, params).status(),
            InvalidArgument("min_tokens: 98 is more than the context has for an answer: 97 of its "
                            "100 tokens"));
  params.max_tokens = 1000;
  EXPECT_EQ(MakeEngineRequest(model, {1, 2, 3}, params).status(),
            InvalidArgument("min_tokens: 98 is more than the context has for an answer: 97 of its "
                            "100 tokens (max_tokens is 1000)"));
}

TEST(MakeEngineRequest, DrawsSeedsOnlyWhereTheyMatter) {
  const FakeTextModel model;
  GenerationParams params;
  EXPECT_EQ(MakeEngineRequest(model, {1}, params)->sampling.seed, 0U);
  params.sampling.temperature = 1;
  const uint64_t one = MakeEngineRequest(model, {1}, params)->sampling.seed;
  const uint64_t two = MakeEngineRequest(model, {1}, params)->sampling.seed;
  EXPECT_NE(one, two);
  EXPECT_LT(one, uint64_t{1} << 53);
  params.seed = 7;
  EXPECT_EQ(MakeEngineRequest(model, {1}, params)->sampling.seed, 7U);
}

TEST(Generate, WaitsForTheAnswer) {
  const FakeTextModel model;
  FakeEngine engine([](const auto&) { return ByteTokens("one two three "); });
  std::string streamed;
  GenerationParams params;
  params.max_tokens = 20;
  params.seed = 3;
  const GenerateCallbacks callbacks{.on_text =
                                        [&](std::string_view text) {
                                          streamed += text;
                                          return true;
                                        },
                                    .on_logits = {}};
  const absl::StatusOr<Answer> whole = Generate(engine, model, {1}, params, callbacks);
  ASSERT_TRUE(whole.ok()) << whole.status();
  EXPECT_EQ(whole->text, "one two three one tw");
  EXPECT_EQ(streamed, whole->text);
  EXPECT_EQ(whole->tokens, ByteTokens(whole->text));
  EXPECT_EQ(whole->reason, parallel::FinishReason::kLength);
  EXPECT_FALSE(whole->seed);
  EXPECT_FALSE(whole->stop_string);
  params.stop = {"thr"};
  const absl::StatusOr<Answer> stopped = Generate(engine, model, {1}, params, {});
  EXPECT_EQ(stopped->text, "one two ");
  EXPECT_EQ(stopped->stop_string, "thr");
  EXPECT_EQ(stopped->tokens, ByteTokens("one two thr"));
  params.min_tokens = 11;
  EXPECT_EQ(Generate(engine, model, {1}, params, {})->text, "one two three one tw");
  EXPECT_EQ(stopped->reason, parallel::FinishReason::kStop);
  EXPECT_EQ(engine.running(), 0);
}

TEST(Generate, EndsWhenNobodyTakesTheText) {
  const FakeTextModel model(/*context=*/100'000);
  FakeEngine engine([](const auto&) { return ByteTokens("word "); },
                    std::chrono::microseconds(100));
  int calls = 0;
  const GenerateCallbacks callbacks{.on_text = [&](std::string_view) { return ++calls < 3; },
                                    .on_logits = {}};
  GenerationParams params;
  params.max_tokens = 50'000;
  const absl::StatusOr<Answer> answer = Generate(engine, model, {1}, params, callbacks);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->reason, parallel::FinishReason::kCancelled);
  EXPECT_EQ(engine.running(), 0);
}

TEST(Generate, GivesTheEnginesError) {
  const FakeTextModel model;
  FakeEngine engine([](const auto&) { return ByteTokens("x"); });
  engine.Die(Unavailable("rank 1 on host b died"));
  EXPECT_EQ(Generate(engine, model, {1}, {}, {}).status(), Unavailable("rank 1 on host b died"));
}

}  // namespace
}  // namespace tandem::frontend
