#include "frontend/chat/shared_prefix.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/fake_text_model.h"
#include "tests/support/tiny_tokenizers.h"

namespace tandem::frontend {
namespace {

using testing::ByteTokens;
using ::testing::ElementsAreArray;
using testing::FakeTextModel;

/// A FakeTextModel with real merges, so that what follows changes tokens before it.
class MergingModel final : public TextModel {
 public:
  const std::string& name() const override { return bytes_.name(); }
  int vocab() const override { return 1000; }
  int context() const override { return bytes_.context(); }
  absl::StatusOr<std::vector<TextSegment>> RenderChat(std::span<const ChatMessage> messages,
                                                      const RenderOptions& options) const override {
    return bytes_.RenderChat(messages, options);
  }
  absl::StatusOr<std::vector<int32_t>> EncodeRendered(
      std::span<const TextSegment> segments) const override {
    return tokenizer_->EncodeSegments(segments);
  }
  absl::StatusOr<std::optional<std::vector<int32_t>>> EncodeContinuation(
      std::span<const TextSegment> segments) const override {
    return bytes_.EncodeContinuation(segments);
  }
  absl::StatusOr<std::vector<int32_t>> EncodeText(std::string_view text) const override {
    return tokenizer_->Encode(text, {.special = false, .bos = true});
  }
  std::unique_ptr<TextStream> NewStream() const override { return bytes_.NewStream(); }
  std::string TokenBytes(int32_t token) const override { return bytes_.TokenBytes(token); }
  std::span<const int32_t> end_tokens() const override { return bytes_.end_tokens(); }
  std::span<const std::string> chat_stop_strings() const override {
    return bytes_.chat_stop_strings();
  }

 private:
  const FakeTextModel bytes_;
  const std::unique_ptr<Tokenizer> tokenizer_ = testing::TinyBpe();
};

void ExpectBegins(const std::vector<int32_t>& whole, const std::vector<int32_t>& beginning) {
  ASSERT_GE(whole.size(), beginning.size());
  EXPECT_THAT(
      std::vector<int32_t>(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(beginning.size())),
      ElementsAreArray(beginning));
}

TEST(SharedPrefix, OfASystemMessageEndsWhereTheUsersTextBegins) {
  const FakeTextModel model;
  const auto tokens = TokensOfSystemMessage(model, "Be kind.");
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  EXPECT_THAT(*tokens, ElementsAreArray(ByteTokens("system:Be kind.\nuser:")));
}

TEST(SharedPrefix, IsWhatEveryChatBeginsWith) {
  const MergingModel model;
  const auto tokens = TokensOfSystemMessage(model, "hello hell");
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  EXPECT_GT(tokens->size(), 5U);
  for (const std::string user : {"hello", "o", "er", " were", "\n\n", "\n", "", "日本"}) {
    const std::vector<ChatMessage> messages = {{"system", "hello hell"}, {"user", user}};
    ExpectBegins(*model.EncodeChat(messages), *tokens);
    const std::vector<ChatMessage> longer = {
        {"system", "hello hell"}, {"user", user}, {"assistant", "hell"}, {"user", "w"}};
    ExpectBegins(*model.EncodeChat(longer), *tokens);
  }
}

TEST(SharedPrefix, OfATextLeavesOutWhatTheNextCharacterMayChange) {
  const MergingModel model;
  const auto tokens = TokensOfText(model, "hello hell");
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  for (const std::string more : {"a", " hell", "0", "\n\nhello", "."}) {
    ExpectBegins(*model.EncodeText("hello hell" + more), *tokens);
  }
  EXPECT_EQ(TokensOfText(model, "")->size(), 1U) << "the start token";
}

/// A model whose template has no place for system messages.
class NoSystemModel final : public TextModel {
 public:
  const std::string& name() const override { return bytes_.name(); }
  int vocab() const override { return bytes_.vocab(); }
  int context() const override { return bytes_.context(); }
  absl::StatusOr<std::vector<TextSegment>> RenderChat(std::span<const ChatMessage> messages,
                                                      const RenderOptions& options) const override {
    return bytes_.RenderChat(messages.subspan(1), options);
  }
  absl::StatusOr<std::vector<int32_t>> EncodeRendered(
      std::span<const TextSegment> segments) const override {
    return bytes_.EncodeRendered(segments);
  }
  absl::StatusOr<std::optional<std::vector<int32_t>>> EncodeContinuation(
      std::span<const TextSegment> segments) const override {
    return bytes_.EncodeContinuation(segments);
  }
  absl::StatusOr<std::vector<int32_t>> EncodeText(std::string_view text) const override {
    return bytes_.EncodeText(text);
  }
  std::unique_ptr<TextStream> NewStream() const override { return bytes_.NewStream(); }
  std::string TokenBytes(int32_t token) const override { return bytes_.TokenBytes(token); }
  std::span<const int32_t> end_tokens() const override { return bytes_.end_tokens(); }
  std::span<const std::string> chat_stop_strings() const override {
    return bytes_.chat_stop_strings();
  }

 private:
  const FakeTextModel bytes_;
};

TEST(SharedPrefix, ATemplateWithoutSystemMessagesIsTold) {
  EXPECT_TRUE(absl::IsFailedPrecondition(TokensOfSystemMessage(NoSystemModel(), "x").status()));
}

}  // namespace
}  // namespace tandem::frontend
