#include "frontend/conversations/conversation_witness.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <utility>

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
  for (const Kind kind :
       {Kind::kTurns, Kind::kErased, Kind::kPosition, Kind::kDamaged, Kind::kWatched}) {
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
  ASSERT_EQ(report->slots.size(), 1U);
  EXPECT_EQ(report->slots.at(more[0].conversation), more[0]);
  const std::vector<ErasedConversation> erased = {
      {.conversation = more[1].conversation, .instance = more[1].instance}};
  EXPECT_EQ(report->erased, erased);
  // Its name is free, and that it was erased is not forgotten.
  const std::vector<WitnessSlot> anew = {SlotFor(2, 5)};
  ASSERT_TRUE((*witness)->Append(anew).ok());
  EXPECT_EQ(ConversationWitness::Read(path)->slots.at(anew[0].conversation), anew[0]);
  EXPECT_EQ(ConversationWitness::Read(path)->erased, erased);
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

TEST(ConversationWitness, KnowsWhichChangesItWasToldOf) {
  const testing::TemporaryDirectory folder;
  const std::string path = folder.path() + "/witness";
  const std::vector<WatchedChanges> watched = {{.branch = 7, .first = 0, .last = 20},
                                               {.branch = 8, .first = 11, .last = 12}};
  const std::vector<WitnessSlot> made = {SlotFor(1, 12), WatchedSlot(watched[0]),
                                         WatchedSlot(watched[1])};
  auto witness = ConversationWitness::Make(path, Identity(), made);
  ASSERT_TRUE(witness.ok()) << witness.status();
  EXPECT_EQ(ConversationWitness::Read(path)->watched, watched);
  const std::vector<WitnessSlot> more = {SlotFor(2, 12), SlotFor(3, 13)};
  ASSERT_TRUE((*witness)->Append(more).ok());
  auto report = ConversationWitness::Read(path);
  EXPECT_EQ(report->sequence, 13U) << "of the branch that goes on";
  EXPECT_EQ(report->watched[0], watched[0]);
  EXPECT_EQ(report->watched[1].last, 13U);
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 1);
  report = ConversationWitness::Read(path);
  EXPECT_EQ(report->slots.size(), 2U);
  EXPECT_TRUE(report->watched.empty()) << "it has not seen all of them any more";
}

TEST(WatchedChanges, TellWhereADatabaseIs) {
  using kv_store::JournalPosition;
  const std::vector<WatchedChanges> watched = {{.branch = 7, .first = 5, .last = 20},
                                               {.branch = 8, .first = 11, .last = 13}};
  const auto on = [](uint64_t branch, uint64_t sequence) {
    return JournalPosition{.branches = {{.id = branch, .begun = 0}}, .sequence = sequence};
  };
  EXPECT_EQ(PlaceAmong(watched, on(8, 13)), WitnessedPlace::kLast);
  for (const auto& [branch, sequence] : {std::pair{8, 12}, {8, 11}, {7, 20}, {7, 5}}) {
    EXPECT_EQ(PlaceAmong(watched, on(branch, sequence)), WitnessedPlace::kEarlier);
  }
  for (const auto& [branch, sequence] : {std::pair{8, 14}, {8, 10}, {7, 21}, {7, 4}, {9, 12}}) {
    EXPECT_EQ(PlaceAmong(watched, on(branch, sequence)), WitnessedPlace::kUnknown);
  }
  EXPECT_EQ(PlaceAmong({}, on(8, 13)), WitnessedPlace::kUnknown);
  EXPECT_EQ(PlaceAmong(watched, {}), WitnessedPlace::kUnknown);
  // A branch on which nothing was written yet has what was there before it.
  EXPECT_EQ(PlaceAmong(watched, on(8, 13).Branched()), WitnessedPlace::kLast);
  EXPECT_EQ(PlaceAmong(watched, on(7, 9).Branched().Branched()), WitnessedPlace::kEarlier);
  EXPECT_EQ(PlaceAmong(watched, on(7, 9).Branched().Next()), WitnessedPlace::kUnknown);
}

}  // namespace
}  // namespace tandem::frontend
