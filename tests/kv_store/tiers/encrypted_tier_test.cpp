#include "kv_store/tiers/encrypted_tier.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "kv_store/tiers/memory_tier.h"
#include "tests/support/changed_bytes.h"
#include "tests/support/tier_records.h"

namespace tandem::kv_store {
namespace {

using testing::BlockNamed;
using ::testing::ElementsAre;
using testing::RecordOf;

StateKey KeyOf(uint8_t fill) {
  StateKey key;
  key.fill(fill);
  return key;
}

/// Shows what is put into the tier behind it.
class SeenTier : public MemoryTier {
 public:
  explicit SeenTier(std::vector<TierRecord>& seen) : MemoryTier(TierLimits{}), seen_(seen) {}
  absl::Status Put(std::span<const TierRecord> records) override {
    seen_.insert(seen_.end(), records.begin(), records.end());
    return MemoryTier::Put(records);
  }

 private:
  std::vector<TierRecord>& seen_;
};

TEST(EncryptedTier, GivesBackWhatWasPutAndHidesIt) {
  const EncryptedBox box(KeyOf(1));
  std::vector<TierRecord> seen;
  EncryptedTier tier(std::make_unique<SeenTier>(seen), box);
  const std::vector<TierRecord> records = {RecordOf(1, 0, 0, 1000, 5), RecordOf(2, 1, 0, 0, 5)};
  ASSERT_TRUE(tier.Put(records).ok());
  const std::vector<RecordKey> keys = {records[0].key, records[1].key, RecordOf(9, 0, 0, 1).key};
  EXPECT_THAT(tier.Exists(keys), ElementsAre(true, true, false));
  const auto found = tier.Get(keys);
  for (size_t i = 0; i < 2; ++i) {
    ASSERT_TRUE(found[i].has_value());
    EXPECT_EQ(found[i]->bytes, records[i].bytes);
    EXPECT_EQ(found[i]->block, records[i].block);
    EXPECT_EQ(found[i]->before, records[i].before);
    EXPECT_EQ(found[i]->tenant, records[i].tenant);
    EXPECT_NE(seen[i].key, records[i].key);
    EXPECT_NE(seen[i].block, records[i].block);
    EXPECT_NE(seen[i].before, records[i].before);
    EXPECT_NE(seen[i].tenant, records[i].tenant);
  }
  EXPECT_EQ(found[2], std::nullopt);
  EXPECT_EQ(seen[1].before, seen[0].block) << "a block still stands on the one before it";
  const auto& bytes = seen[0].bytes;
  EXPECT_EQ(std::search(bytes.begin(), bytes.end(), records[0].bytes.begin(),
                        records[0].bytes.begin() + 16),
            bytes.end());
}

TEST(EncryptedTier, ErasesBlocksAndWhatStandsOnThem) {
  const EncryptedBox box(KeyOf(1));
  EncryptedTier tier(std::make_unique<MemoryTier>(TierLimits{}), box);
  const std::vector<TierRecord> records = {RecordOf(1, 0, 0, 10), RecordOf(2, 1, 0, 10),
                                           RecordOf(3, 0, 0, 10)};
  ASSERT_TRUE(tier.Put(records).ok());
  const std::vector<BlockHash> erased = {BlockNamed(1)};
  ASSERT_TRUE(tier.Erase(erased).ok());
  const std::vector<RecordKey> keys = {records[0].key, records[1].key, records[2].key};
  EXPECT_THAT(tier.Exists(keys), ElementsAre(false, false, true));
}

TEST(EncryptedTier, WhatWasChangedOrSwappedIsAMiss) {
  const EncryptedBox box(KeyOf(1));
  std::vector<TierRecord> seen;
  const std::vector<TierRecord> records = {RecordOf(1, 0, 0, 100), RecordOf(2, 0, 0, 100)};
  const std::vector<RecordKey> keys = {records[0].key, records[1].key};
  {
    EncryptedTier tier(std::make_unique<SeenTier>(seen), box);
    ASSERT_TRUE(tier.Put(records).ok());
  }
  for (const bool swapped : {false, true}) {
    std::vector<TierRecord> changed = seen;
    if (swapped) {
      std::swap(changed[0].bytes, changed[1].bytes);
    } else {
      testing::Flip(changed[0].bytes, 80);
    }
    auto memory = std::make_unique<MemoryTier>(TierLimits{});
    ASSERT_TRUE(memory->Put(changed).ok());
    EncryptedTier tier(std::move(memory), box);
    const auto found = tier.Get(keys);
    EXPECT_EQ(found[0], std::nullopt);
    EXPECT_EQ(found[1].has_value(), !swapped);
    EXPECT_EQ(tier.Stats().dropped, swapped ? 2U : 1U);
  }
  auto memory = std::make_unique<MemoryTier>(TierLimits{});
  ASSERT_TRUE(memory->Put(seen).ok());
  const EncryptedBox another(KeyOf(2));
  EXPECT_EQ(EncryptedTier(std::move(memory), another).Get(keys)[0], std::nullopt);
}

}  // namespace
}  // namespace tandem::kv_store
