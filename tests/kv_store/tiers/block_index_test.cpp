#include "kv_store/tiers/block_index.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "tests/support/random.h"
#include "tests/support/tier_records.h"

namespace tandem::kv_store {
namespace {

using testing::BlockNamed;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using testing::RecordOf;
using testing::SplitMix;

std::vector<BlockHash> BlocksOf(const std::vector<BlockIndex::Removed>& removed) {
  std::vector<BlockHash> blocks;
  for (const auto& block : removed) blocks.push_back(block.block);
  return blocks;
}

/// Adds a record of block `n` on block `before`.
std::vector<BlockHash> Add(BlockIndex& index, int n, int before, int64_t bytes, uint64_t tenant = 0,
                           int head = 0) {
  std::vector<BlockIndex::Removed> evicted;
  EXPECT_TRUE(index.Add(RecordOf(n, before, head, bytes, tenant), evicted));
  return BlocksOf(evicted);
}

TEST(BlockIndex, LeavesGoFirstTheLongestUnusedBeforeOthers) {
  BlockIndex index({.bytes = 50});
  Add(index, 1, 0, 10);
  Add(index, 2, 1, 10);
  Add(index, 3, 2, 10);
  Add(index, 4, 1, 10);
  Add(index, 5, 4, 10);
  // 1 is the oldest, but 2 and 4 stand on it; 3 is the oldest leaf.
  EXPECT_THAT(Add(index, 6, 0, 10), ElementsAre(BlockNamed(3)));
  // Now 2 is a leaf, and older than 5.
  EXPECT_TRUE(index.Use(RecordOf(2, 1, 0, 10).key));
  EXPECT_THAT(Add(index, 7, 0, 10), ElementsAre(BlockNamed(5)));
  EXPECT_THAT(Add(index, 8, 0, 20), ElementsAre(BlockNamed(4), BlockNamed(6)));
  EXPECT_EQ(index.bytes(), 50);
  EXPECT_EQ(index.blocks(), 4);
}

TEST(BlockIndex, ABlockGoesWithAllItsRecords) {
  BlockIndex index({.bytes = 40});
  for (int head = 0; head < 3; ++head) Add(index, 1, 0, 10, 0, head);
  std::vector<BlockIndex::Removed> evicted;
  ASSERT_TRUE(index.Add(RecordOf(2, 0, 0, 20), evicted));
  ASSERT_EQ(evicted.size(), 1U);
  EXPECT_EQ(evicted[0].keys.size(), 3U);
  EXPECT_EQ(index.records(), 1);
  EXPECT_EQ(index.bytes(), 20);
}

TEST(BlockIndex, NothingMakesRoomForWhatStandsOnIt) {
  BlockIndex index({.bytes = 30});
  Add(index, 1, 0, 10);
  Add(index, 2, 1, 10);
  Add(index, 3, 2, 10);
  std::vector<BlockIndex::Removed> evicted;
  EXPECT_FALSE(index.Add(RecordOf(4, 3, 0, 10), evicted));
  EXPECT_FALSE(index.Add(RecordOf(3, 2, 1, 10), evicted));  // nor for the rest of a block
  EXPECT_FALSE(index.Add(RecordOf(9, 0, 0, 31), evicted));  // nor in vain
  EXPECT_THAT(evicted, IsEmpty());
  EXPECT_EQ(index.blocks(), 3);
}

TEST(BlockIndex, ATenantOverItsQuotaMakesRoomFromItsOwn) {
  BlockIndex index({.bytes = 100, .tenant_bytes = 20});
  Add(index, 1, 0, 10, 7);
  Add(index, 2, 0, 10, 8);
  Add(index, 3, 0, 10, 8);
  EXPECT_THAT(Add(index, 4, 0, 10, 8), ElementsAre(BlockNamed(2)));
  std::vector<BlockIndex::Removed> evicted;
  EXPECT_FALSE(index.Add(RecordOf(5, 0, 0, 21, 8), evicted));
  EXPECT_EQ(index.bytes_of(7), 10);
  EXPECT_EQ(index.bytes_of(8), 20);
}

TEST(BlockIndex, DroppingABlockTakesWhatStandsOnIt) {
  BlockIndex index({});
  Add(index, 1, 0, 10);
  Add(index, 2, 1, 10);
  Add(index, 3, 2, 10);
  Add(index, 4, 1, 10);
  EXPECT_THAT(BlocksOf(index.DropBlock(BlockNamed(2))), ElementsAre(BlockNamed(3), BlockNamed(2)));
  EXPECT_THAT(BlocksOf(index.DropBlock(BlockNamed(2))), IsEmpty());
  // What stands on a block that never came.
  Add(index, 6, 5, 10);
  EXPECT_THAT(BlocksOf(index.DropBlock(BlockNamed(5))), ElementsAre(BlockNamed(6)));
  EXPECT_EQ(index.blocks(), 2);
}

TEST(BlockIndex, CirclesHangNothing) {
  BlockIndex index({.bytes = 20});
  std::vector<BlockIndex::Removed> evicted;
  EXPECT_FALSE(index.Add(RecordOf(1, 1, 0, 10), evicted));
  Add(index, 2, 3, 10);
  Add(index, 3, 2, 10);
  EXPECT_FALSE(index.Add(RecordOf(4, 0, 0, 10), evicted));
  EXPECT_EQ(index.DropBlock(BlockNamed(2)).size(), 2U);
  EXPECT_EQ(index.blocks(), 0);
}

TEST(BlockIndex, WhatIsRestoredIsCutToTheLimits) {
  BlockIndex index({.bytes = 30, .tenant_bytes = 20});
  const auto restore = [&](int n, int before, uint64_t tenant, uint64_t last_use) {
    const TierRecord record = RecordOf(n, before, 0, 10, tenant);
    index.Restore(record.key, record.block, record.before, tenant, 10, last_use);
  };
  restore(2, 1, 0, 7);  // before what it stands on
  restore(1, 0, 0, 5);
  restore(3, 0, 0, 6);
  restore(4, 0, 1, 2);
  restore(5, 0, 1, 3);
  EXPECT_THAT(BlocksOf(index.Shrink()), ElementsAre(BlockNamed(3), BlockNamed(4)));
  EXPECT_EQ(index.clock(), 7U);
  EXPECT_EQ(index.LastUse(BlockNamed(2)), 7U);
  EXPECT_EQ(index.LastUse(BlockNamed(4)), std::nullopt);
}

/// Against a index that looks at everything each time.
TEST(BlockIndex, DoesAsASlowBookDoes) {
  struct Slow {
    int before = 0;
    uint64_t tenant = 0;
    uint64_t last_use = 0;
    std::map<int, int64_t> heads;
  };
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SplitMix random(seed);
    const TierLimits limits{.bytes = seed % 3 == 0 ? 0 : 400,
                            .tenant_bytes = seed % 2 == 0 ? 0 : 250};
    BlockIndex index(limits);
    std::map<int, Slow> slow;
    uint64_t clock = 0;
    const auto bytes = [&](std::optional<uint64_t> tenant) {
      int64_t sum = 0;
      for (const auto& [n, block] : slow) {
        if (tenant && block.tenant != *tenant) continue;
        for (const auto& [head, size] : block.heads) sum += size;
      }
      return sum;
    };
    const auto is_leaf = [&](int n) {
      return std::none_of(slow.begin(), slow.end(),
                          [n](const auto& other) { return other.second.before == n; });
    };
    for (int i = 0; i < 3000; ++i) {
      // Block n stands on n / 2, of the tenant that its root has.
      const int n = static_cast<int>(2 + random.Below(60));
      int root = n;
      while (root > 3) root /= 2;
      const auto tenant = static_cast<uint64_t>(root);
      const int head = static_cast<int>(random.Below(2));
      const TierRecord record = RecordOf(n, n / 2, head, 10 + 5 * (n % 3), tenant);
      const auto size = static_cast<int64_t>(record.bytes.size());
      const uint64_t what = random.Below(20);
      if (what < 14) {
        const bool known = slow.contains(n) && slow[n].heads.contains(head);
        ASSERT_EQ(index.Has(record.key), known);
        if (known) continue;
        Slow& block = slow[n];
        block.before = n / 2;
        block.tenant = tenant;
        bool fits = false;
        std::set<int> gone;
        for (;;) {
          const bool tenant_over =
              limits.tenant_bytes > 0 && bytes(tenant) + size > limits.tenant_bytes;
          fits = !tenant_over && (limits.bytes == 0 || bytes(std::nullopt) + size <= limits.bytes);
          if (fits) break;
          int victim = 0;
          for (const auto& [other, candidate] : slow) {
            if (other == n || !is_leaf(other)) continue;
            if (tenant_over && candidate.tenant != tenant) continue;
            if (victim == 0 || candidate.last_use < slow[victim].last_use) victim = other;
          }
          if (victim == 0) break;
          gone.insert(victim);
          slow.erase(victim);
        }
        if (fits) {
          block.heads[head] = size;
          block.last_use = ++clock;
        } else if (block.heads.empty()) {
          slow.erase(n);
        }
        std::vector<BlockIndex::Removed> evicted;
        ASSERT_EQ(index.Add(record, evicted), fits);
        std::set<BlockHash> expected;
        for (const int block_gone : gone) expected.insert(BlockNamed(block_gone));
        std::set<BlockHash> found;
        for (const auto& removed : evicted) found.insert(removed.block);
        ASSERT_EQ(found, expected) << "seed " << seed << ", operation " << i;
      } else if (what < 18) {
        const bool known = slow.contains(n) && slow[n].heads.contains(head);
        ASSERT_EQ(index.Use(record.key), known);
        if (known) slow[n].last_use = ++clock;
      } else if (what < 19) {
        index.DropRecord(record.key);
        if (slow.contains(n)) {
          slow[n].heads.erase(head);
          if (slow[n].heads.empty()) slow.erase(n);
        }
      } else {
        index.DropBlock(record.block);
        // As far as one block leads to the next.
        std::set<int> gone = {n};
        for (int other = n; other < 62; ++other) {
          if (slow.contains(other) && gone.contains(other / 2)) gone.insert(other);
        }
        for (const int other : gone) slow.erase(other);
      }
      ASSERT_EQ(index.bytes(), bytes(std::nullopt)) << "seed " << seed << ", operation " << i;
      ASSERT_EQ(index.bytes_of(tenant), bytes(tenant));
      ASSERT_EQ(index.blocks(), static_cast<int64_t>(slow.size()));
    }
  }
}

}  // namespace
}  // namespace tandem::kv_store
