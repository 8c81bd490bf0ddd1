#include "kv_store/tiers/memory_tier.h"

#include <gtest/gtest.h>

#include "tests/kv_store/tiers/tier_suite.h"
#include "tests/support/tier_records.h"

namespace tandem::kv_store {
namespace {

using testing::RecordOf;

INSTANTIATE_TEST_SUITE_P(
    Memory, TierSuite,
    ::testing::Values(TierMaker{
        .name = "Memory",
        .make = [](const TierLimits& limits) { return std::make_shared<MemoryTier>(limits); }}),
    TierMakerName);

TEST(MemoryTier, HandsOnWhatItEvicts) {
  std::vector<TierRecord> handed_on;
  MemoryTier tier({.bytes = 300}, [&](std::vector<TierRecord> evicted) {
    for (TierRecord& record : evicted) handed_on.push_back(std::move(record));
  });
  const std::vector<TierRecord> records = {RecordOf(1, 0, 0, 100), RecordOf(1, 0, 1, 100),
                                           RecordOf(2, 0, 0, 100), RecordOf(3, 0, 0, 100)};
  ASSERT_TRUE(tier.Put(records).ok());
  ASSERT_EQ(handed_on.size(), 2U);
  EXPECT_EQ(handed_on[0].key, records[0].key);
  EXPECT_EQ(handed_on[0].bytes, records[0].bytes);
  EXPECT_EQ(handed_on[1].key, records[1].key);
  ASSERT_TRUE(tier.Erase(std::vector{records[2].block}).ok());
  EXPECT_EQ(handed_on.size(), 2U);
}

}  // namespace
}  // namespace tandem::kv_store
