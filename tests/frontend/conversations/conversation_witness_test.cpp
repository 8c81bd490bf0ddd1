#include "frontend/conversations/conversation_witness.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "tests/support/hex.h"
#include "tests/support/temporary_directory.h"

namespace tandem::frontend {
namespace {

using testing::Counted;
using testing::Hex;
using Kind = WitnessSlot::Kind;

WitnessSlot SlotFor(uint8_t conversation, uint64_t turns, Kind kind = Kind::kTurns) {
  WitnessSlot slot;
  slot.kind = kind;
  slot.conversation.fill(conversation);
  slot.instance = 7;
  slot.turns = turns;
  slot.last = Counted<WitnessHash>(1);
  slot.sequence = turns;
  return slot;
}

std::vector<std::byte> Identity() { return std::vector<std::byte>(50, std::byte{9}); }

TEST(ConversationWitness, TheBytesStayAsTheyWere) {
  WitnessSlot slot = SlotFor(3, 5, Kind::kDamaged);
  slot.sequence = 6;
  EXPECT_EQ(
      Hex(EncodeWitnessSlot(slot, 4)),
      "03030303030303030303030303030303070000000000000005000000000000000102030405060708090a0b0c0d"
      "0e0f1006000000000000034196e9f1ac57d7f6");
}

TEST(ConversationWitness, SlotsComeBackAndDamageIsSeen) {
  for (const Kind kind : {Kind::kTurns, Kind::kErased, Kind::kPosition, Kind::kDamaged}) {
    WitnessSlot slot = SlotFor(3, 5, kind);
    if (kind == Kind::kErased) slot.last.reset();
    const auto bytes = EncodeWitnessSlot(slot, 4);
    const auto decoded = DecodeWitnessSlot(bytes, 4);
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_EQ(*decoded, slot);
    EXPECT_TRUE(absl::IsDataLoss(DecodeWitnessSlot(bytes, 5).status())) << "it lies elsewhere";
    for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
      auto changed = bytes;
      changed[bit / 8] ^= std::byte{1} << (bit % 8);
      EXPECT_TRUE(absl::IsDataLoss(DecodeWitnessSlot(changed, 4).status())) << bit;
    }
    EXPECT_FALSE(DecodeWitnessSlot(std::span(bytes).first(63), 4).ok());
  }
}

TEST(ConversationWitness, TheLastSlotOfAConversationCounts) {
  const testing::TemporaryDirectory folder;
  const std::string path = folder.path() + "/witness";
  EXPECT_FALSE(ConversationWitness::Read(path)->there);
  const std::vector<WitnessSlot> first = {SlotFor(1, 1), SlotFor(2, 2)};
  auto witness = ConversationWitness::Make(path, Identity(), first);
  ASSERT_TRUE(witness.ok()) << witness.status();
  const std::vector<WitnessSlot> more = {SlotFor(1, 3), SlotFor(2, 4, Kind::kErased)};
  ASSERT_TRUE((*witness)->Append(more).ok());
  ASSERT_TRUE((*witness)->Sync().ok());
  EXPECT_EQ((*witness)->slots(), 6U);
  const auto report = ConversationWitness::Read(path);
  ASSERT_TRUE(report.ok());
  EXPECT_TRUE(report->there);
  EXPECT_EQ(report->identity, Identity());
  EXPECT_EQ(report->damaged, 0);
  EXPECT_EQ(report->sequence, 4U);
  ASSERT_EQ(report->slots.size(), 2U);
  EXPECT_EQ(report->slots.at(more[0].conversation), more[0]);
  EXPECT_EQ(report->slots.at(more[1].conversation).kind, Kind::kErased);
}

TEST(ConversationWitness, OneIdentityIsEnoughAndATornSlotIsSeen) {
  const testing::TemporaryDirectory folder;
  const std::string path = folder.path() + "/witness";
  const std::vector<WitnessSlot> slots(20'000, SlotFor(1, 1));  // more than is read at once
  ASSERT_TRUE(ConversationWitness::Make(path, Identity(), slots).ok());
  EXPECT_EQ(ConversationWitness::Read(path)->damaged, 0);
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 1);
  EXPECT_EQ(ConversationWitness::Read(path)->damaged, 1);
  std::filesystem::resize_file(path, 64);
  auto report = ConversationWitness::Read(path);
  EXPECT_EQ(report->damaged, 1);
  EXPECT_EQ(report->identity, Identity());
  std::filesystem::resize_file(path, 0);
  report = ConversationWitness::Read(path);
  EXPECT_TRUE(report->there);
  EXPECT_TRUE(report->identity.empty());
  EXPECT_EQ(report->damaged, 1);
}

}  // namespace
}  // namespace tandem::frontend
