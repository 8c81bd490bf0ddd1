#include "frontend/conversations/erased_conversations.h"

#include <gtest/gtest.h>

namespace tandem::frontend {
namespace {

ErasedConversation Erased(uint8_t conversation, uint64_t instance) {
  ErasedConversation erased{.conversation = {}, .instance = instance};
  erased.conversation.fill(conversation);
  return erased;
}

TEST(ErasedConversations, AreKnownByNameAndInstance) {
  ErasedConversations erased;
  erased.Add(Erased(1, 100));
  erased.Add(Erased(2, 0));
  EXPECT_EQ(erased.all().size(), 1U) << "nothing could be told from one of no known instance";
  EXPECT_TRUE(erased.Has(Erased(1, 0).conversation));
  EXPECT_FALSE(erased.Has(Erased(2, 0).conversation));
  EXPECT_TRUE(erased.Has(Erased(1, 100)));
  EXPECT_TRUE(erased.Has(Erased(1, 99))) << "it was gone on with";
  EXPECT_FALSE(erased.Has(Erased(1, 101)));
  EXPECT_FALSE(erased.Has(Erased(1, 0)));
  EXPECT_FALSE(erased.Has(Erased(0, 100)));
  EXPECT_FALSE(erased.Has(Erased(2, 100)));
  EXPECT_FALSE(erased.Has(Erased(1, uint64_t{1} << 40)));
}

TEST(ErasedConversations, AreBounded) {
  ErasedConversations erased(3);
  for (uint64_t instance : {1 << 21, 1 << 22, 1 << 23}) erased.Add(Erased(1, instance));
  erased.Add(Erased(1, 1 << 22));
  EXPECT_EQ(erased.all().size(), 3U);
  EXPECT_TRUE(erased.GoingFor(0).empty());
  EXPECT_EQ(erased.GoingFor(2), (std::vector{Erased(1, 1 << 21), Erased(1, 1 << 22)}));
  EXPECT_EQ(erased.GoingFor(9).size(), 3U);
  erased.Add(Erased(2, 5));
  EXPECT_EQ(erased.all().size(), 3U);
  EXPECT_FALSE(erased.Has(Erased(1, 1 << 21)));
  EXPECT_TRUE(erased.Has(Erased(2, 5)));
}

TEST(ErasedConversations, HaveAPlace) {
  const ErasedConversation erased = Erased(7, 0x0102030405060708);
  const std::string place = PlaceOfErased(erased);
  EXPECT_EQ(place, "D" + std::string(16, 7) + std::string("\1\2\3\4\5\6\7\10"));
  EXPECT_EQ(ErasedOfPlace(place), erased);
  EXPECT_FALSE(ErasedOfPlace(place + "x"));
  EXPECT_FALSE(ErasedOfPlace("C" + place.substr(1)));
  EXPECT_FALSE(ErasedOfPlace(""));
}

}  // namespace
}  // namespace tandem::frontend
