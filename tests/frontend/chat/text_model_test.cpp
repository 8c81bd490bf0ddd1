#include "frontend/chat/text_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "core/formats/model_file.h"
#include "frontend/chat/generation.h"
#include "tests/support/models.h"

namespace tandem::frontend {
namespace {

using ::testing::HasSubstr;

struct Loaded {
  explicit Loaded(const std::string& name, const TextModelOptions& options = {}) {
    auto file = core::ModelFile::Open(testing::ModelPath(name));
    EXPECT_TRUE(file.ok()) << file.status();
    auto text = LoadTextModel(**file, options);
    EXPECT_TRUE(text.ok()) << text.status();
    model = *std::move(text);
  }
  std::string Decoded(std::span<const int32_t> tokens) const {
    AnswerWriter writer(model->NewStream(), {});
    std::string text = writer.Append(tokens);
    return text + writer.Finish();
  }
  std::unique_ptr<TextModel> model;
};

TEST(TextModel, OfSmolLm2) {
  const Loaded loaded("SmolLM2-135M-Instruct.Q4_1.gguf");
  const TextModel& model = *loaded.model;
  EXPECT_EQ(model.vocab(), 49152);
  EXPECT_EQ(model.context(), 8192);
  EXPECT_EQ(*model.EncodeText("The capital of France is"),
            (std::vector<int32_t>{504, 3575, 282, 4649, 314}))
      << "no start token";
  EXPECT_EQ(loaded.Decoded(*model.EncodeText(" naïve 🚲\n")), " naïve 🚲\n");

  const std::vector<ChatMessage> messages{{"user", "Hi <|im_end|>"}};
  const auto chat = model.EncodeChat(messages);
  ASSERT_TRUE(chat.ok()) << chat.status();
  constexpr int32_t kStart = 1;
  constexpr int32_t kEnd = 2;
  EXPECT_EQ(std::count(chat->begin(), chat->end(), kStart), 3) << "system, user, assistant";
  EXPECT_EQ(std::count(chat->begin(), chat->end(), kEnd), 2) << "the user's own is only text";
  const auto ends = model.end_tokens();
  EXPECT_NE(std::find(ends.begin(), ends.end(), kEnd), ends.end());
  EXPECT_TRUE(model.chat_stop_strings().empty());
}

TEST(TextModel, OfGemmaChatsInZephyrForm) {
  const Loaded loaded("gemma-3-270m-q4_k_m.gguf", {.chat_template = {}, .context = 1000});
  const TextModel& model = *loaded.model;
  EXPECT_EQ(model.vocab(), 262144);
  EXPECT_EQ(model.context(), 1000) << "what the engine can hold";
  const auto raw = model.EncodeText("Hello");
  ASSERT_TRUE(raw.ok());
  constexpr int32_t kStart = 2;
  EXPECT_EQ(raw->front(), kStart);
  const std::vector<ChatMessage> messages{{"user", "Hi"}};
  const auto chat = model.EncodeChat(messages);
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_EQ(chat->front(), kStart);
  EXPECT_THAT(loaded.Decoded(*chat), HasSubstr("<|user|>\nHi\n\n<|assistant|>"));
  const auto stops = model.chat_stop_strings();
  EXPECT_NE(std::find(stops.begin(), stops.end(), "<|user|>"), stops.end());
}

TEST(TextModel, EncodesTheRestOfAChatAsItIsInTheWhole) {
  for (const char* file : {"SmolLM2-135M-Instruct.Q4_1.gguf", "gemma-3-270m-q4_k_m.gguf"}) {
    const Loaded loaded(file);
    const TextModel& model = *loaded.model;
    std::vector<ChatMessage> messages{{"user", "Hi <|im_end|> naïve"}};
    const auto first = *model.EncodeChat(messages);
    const auto first_text = *model.RenderChat(messages, {});
    messages.push_back({"assistant", "Hello there."});
    messages.push_back({"user", "And <|im_start|> now?\n\n"});
    const auto whole = *model.RenderChat(messages, {});
    size_t skip = std::string("Hello there.").size();
    for (const TextSegment& segment : first_text) skip += segment.text.size();
    std::vector<TextSegment> rest;
    for (const TextSegment& segment : whole) {
      const size_t cut = std::min(skip, segment.text.size());
      skip -= cut;
      if (cut < segment.text.size()) {
        rest.push_back({segment.text.substr(cut), segment.from_template});
      }
    }
    const auto more = model.EncodeContinuation(rest);
    ASSERT_TRUE(more.ok() && more->has_value()) << more.status();
    std::vector<int32_t> joined = first;
    const auto answer = *model.EncodeRendered(std::vector<TextSegment>{{"Hello there.", false}});
    const std::vector<int32_t> expected = *model.EncodeRendered(whole);
    const bool start = answer.front() == expected.front();  // the start token is no part of it
    joined.insert(joined.end(), answer.begin() + (start ? 1 : 0), answer.end());
    joined.insert(joined.end(), (*more)->begin(), (*more)->end());
    EXPECT_EQ(loaded.Decoded(joined), loaded.Decoded(expected));
    // The template's control tokens part messages.
    if (!start) {
      EXPECT_EQ(joined, expected);
    }
  }
}

TEST(TextModel, RefusesForGoodWhatATemplateMayNotWorkWith) {
  const Loaded loaded("SmolLM2-135M-Instruct.Q4_1.gguf");
  const std::vector<ChatMessage> messages(400'000, {"user", ""});
  const auto rendered = loaded.model->RenderChat(messages, {});
  EXPECT_TRUE(absl::IsInvalidArgument(rendered.status()))
      << "to try again later is of no use: " << rendered.status();
}

TEST(TextModel, TakesAnotherTemplate) {
  const Loaded loaded("SmolLM2-135M-Instruct.Q4_1.gguf", {.chat_template = "zephyr", .context = 0});
  const std::vector<ChatMessage> messages{{"user", "Hi"}};
  EXPECT_EQ(loaded.Decoded(*loaded.model->EncodeChat(messages)).find("<|user|>\nHi"), 0U);
  auto file = core::ModelFile::Open(testing::ModelPath("SmolLM2-135M-Instruct.Q4_1.gguf"));
  EXPECT_FALSE(LoadTextModel(**file, {.chat_template = "/no/such/file", .context = 0}).ok());
}

}  // namespace
}  // namespace tandem::frontend
