#include "frontend/conversations/conversations.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

namespace tandem::frontend {
namespace {

ConversationName ResponseNamed(int number, const std::string& tenant = "") {
  return {.tenant = tenant, .id = fmt::format("resp_{:032x}", number)};
}

/// Begins and ends a turn.
absl::Status AddTurn(Conversations& conversations, const ConversationName& name) {
  const auto begun = conversations.Begin(name, "r", 0);
  if (!begun.ok()) return begun.status();
  conversations.Commit(name, {{"user", "Hi"}, {"assistant", "Hello"}}, 0, 0, {});
  return absl::OkStatus();
}

TEST(Conversations, KnowStoredResponses) {
  EXPECT_TRUE(IsResponseId(ResponseNamed(1).id));
  EXPECT_FALSE(IsResponseId("resp_1"));
  EXPECT_FALSE(IsResponseId("resp_" + std::string(32, 'g')));
  EXPECT_FALSE(IsResponseId("chat_" + std::string(32, '0')));
}

TEST(Conversations, TellWhichStoredResponseMakesRoom) {
  Conversations conversations({.conversations = 3, .bytes = 100'000});
  ASSERT_TRUE(AddTurn(conversations, ResponseNamed(2, "a")).ok());
  ASSERT_TRUE(AddTurn(conversations, ResponseNamed(1, "b")).ok());
  EXPECT_FALSE(conversations.ResponseToDrop(1, 0, {})) << "there is room";
  ASSERT_TRUE(AddTurn(conversations, {.tenant = "", .id = "named"}).ok());
  EXPECT_FALSE(AddTurn(conversations, {.tenant = "", .id = "other"}).ok());
  EXPECT_EQ(conversations.ResponseToDrop(1, 0, {}), ResponseNamed(1, "b")) << "the oldest";
  EXPECT_EQ(conversations.ResponseToDrop(1, 0, ResponseNamed(1, "b")), ResponseNamed(2, "a"));
  EXPECT_FALSE(conversations.ResponseToDrop(1, 100'001, {})) << "it would not fit alone";
  ASSERT_TRUE(conversations.Begin(ResponseNamed(1, "b"), "r", 0).ok());
  EXPECT_EQ(conversations.ResponseToDrop(1, 0, {}), ResponseNamed(2, "a")) << "one is answered";
  conversations.Abandon(ResponseNamed(1, "b"));
  ASSERT_TRUE(conversations.Delete(ResponseNamed(1, "b")).ok());
  ASSERT_TRUE(AddTurn(conversations, {.tenant = "", .id = "other"}).ok());
  EXPECT_EQ(conversations.ResponseToDrop(1, 0, {}), ResponseNamed(2, "a"));
  ASSERT_TRUE(conversations.Delete(ResponseNamed(2, "a")).ok());
  ASSERT_TRUE(AddTurn(conversations, {.tenant = "", .id = "third"}).ok());
  EXPECT_FALSE(conversations.ResponseToDrop(1, 0, {})) << "conversations with names stay";
}

}  // namespace
}  // namespace tandem::frontend
