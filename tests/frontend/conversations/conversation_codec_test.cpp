#include "frontend/conversations/conversation_codec.h"

#include <gtest/gtest.h>

#include "tests/support/random_conversations.h"

namespace tandem::frontend {
namespace {

using testing::RandomConversations;
using testing::Same;

TEST(ConversationDelta, AppliedGivesTheConversation) {
  RandomConversations random(1);
  Conversation before;
  Conversation applied;
  for (int turn = 0; turn < 300; ++turn) {
    const Conversation after = random.Next(before);
    ASSERT_TRUE(Apply(RandomConversations::Delta(before, after), applied).ok());
    ASSERT_TRUE(Same(applied, after)) << turn;
    before = after;
  }
  Conversation whole;
  ASSERT_TRUE(Apply(DeltaOf(before), whole).ok());
  EXPECT_TRUE(Same(whole, before));
}

TEST(ConversationDelta, IsAsSmallAsItsTurn) {
  Conversation before;
  before.history.tokens.assign(10000, 1);
  before.history.segments.assign(500, {"a segment", true});
  before.messages.assign(500, {"user", "hi"});
  Conversation after = before;
  after.history.tokens.push_back(2);
  after.history.segments.back().text += " that went on";
  const ConversationDelta delta = RandomConversations::Delta(before, after);
  EXPECT_EQ(delta.tokens.size(), 1U);
  EXPECT_EQ(delta.segments.size(), 1U);
  EXPECT_TRUE(delta.messages.empty());
  EXPECT_LT(EncodeTurn("p", 1, TurnHash{}, delta).size(), 150U);
}

TEST(ConversationDelta, OfAnotherConversationIsRefused) {
  const Conversation small;
  for (int wrong = 0; wrong < 4; ++wrong) {
    ConversationDelta delta;
    if (wrong == 0) delta.kept_tokens = 1;
    if (wrong == 1) delta.kept_segments = 1;
    if (wrong == 2) delta.first = 1;
    if (wrong == 3) delta.dropped_tokens = -1;
    Conversation conversation;
    EXPECT_TRUE(absl::IsDataLoss(Apply(delta, conversation))) << wrong;
    EXPECT_TRUE(Same(conversation, small));
  }
}

TEST(ConversationCodec, TurnsAndHeadsComeBack) {
  RandomConversations random(2);
  Conversation before;
  for (int turn = 0; turn < 50; ++turn) {
    const Conversation after = random.Next(before);
    const auto record =
        EncodeTurn("place", 77, TurnHash{9}, RandomConversations::Delta(before, after));
    auto decoded = DecodeTurn("place", record);
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_EQ(decoded->instance, 77U);
    EXPECT_EQ(decoded->before, TurnHash{9});
    ASSERT_TRUE(Apply(std::move(decoded->delta), before).ok());
    ASSERT_TRUE(Same(before, after));
  }
  const ConversationHead head{{"tenant \"x\"", "name"}, 123, 456, TurnHash{7}};
  const auto decoded = DecodeHead("place", EncodeHead("place", head));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->name, head.name);
  EXPECT_EQ(decoded->instance, 123U);
  EXPECT_EQ(decoded->turns, 456U);
  EXPECT_EQ(decoded->last, TurnHash{7});
}

TEST(ConversationCodec, SparseAttentionMakesAnotherVersionOfATurn) {
  ConversationDelta delta;
  EXPECT_EQ(EncodeTurn("place", 1, TurnHash{9}, delta)[0], std::byte{2});
  delta.attention = "sparse:window=64,global=4";
  const auto record = EncodeTurn("place", 1, TurnHash{9}, delta);
  EXPECT_EQ(record[0], std::byte{3});
  const auto decoded = DecodeTurn("place", record);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->delta.attention, delta.attention);
  EXPECT_EQ(decoded->before, TurnHash{9});
}

TEST(ConversationCodec, DamageIsSeen) {
  RandomConversations random(3);
  const auto turn = EncodeTurn("place", 1, TurnHash{9}, DeltaOf(random.Next(random.Next({}))));
  const auto head = EncodeHead("place", {{"t", "n"}, 1, 2, TurnHash{7}});
  for (const auto* record : {&turn, &head}) {
    const auto damaged = [&](std::string_view place, std::span<const std::byte> bytes) {
      return record == &turn ? DecodeTurn(place, bytes).status()
                             : DecodeHead(place, bytes).status();
    };
    ASSERT_TRUE(damaged("place", *record).ok());
    EXPECT_TRUE(absl::IsDataLoss(damaged("elsewhere", *record)));
    for (size_t bit = 0; bit < record->size() * 8; ++bit) {
      auto changed = *record;
      changed[bit / 8] ^= std::byte{1} << (bit % 8);
      EXPECT_FALSE(damaged("place", changed).ok()) << bit;
    }
    for (size_t size = 0; size < record->size(); ++size) {
      EXPECT_TRUE(absl::IsDataLoss(damaged("place", std::span(*record).first(size))));
    }
  }
  auto newer = head;
  newer[0] = std::byte{3};
  EXPECT_TRUE(absl::IsFailedPrecondition(DecodeHead("place", newer).status()));
  EXPECT_FALSE(DecodeHead("place", turn).ok()) << "a turn is no head";
  EXPECT_FALSE(DecodeTurn("place", head).ok());
}

}  // namespace
}  // namespace tandem::frontend
