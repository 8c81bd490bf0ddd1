#include "tests/kv_store/tiers/tier_suite.h"

#include <gmock/gmock.h>

#include <atomic>
#include <map>
#include <set>
#include <thread>

#include "tests/support/random.h"
#include "tests/support/tier_records.h"

namespace tandem::kv_store {
namespace {

using testing::BlockNamed;
using ::testing::Each;
using ::testing::ElementsAre;
using testing::KeysOf;
using testing::RecordOf;
using testing::SplitMix;

absl::Status Put(Tier& tier, std::vector<TierRecord> records) { return tier.Put(records); }

void ExpectFound(const std::optional<FoundRecord>& found, const TierRecord& record) {
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->bytes, record.bytes);
  EXPECT_EQ(found->block, record.block);
  EXPECT_EQ(found->before, record.before);
  EXPECT_EQ(found->tenant, record.tenant);
}

TEST_P(TierSuite, GivesBackWhatWasPut) {
  const auto tier = Make();
  const std::vector<TierRecord> records = {RecordOf(1, 0, 0, 1000, 5), RecordOf(1, 0, 1, 1, 5),
                                           RecordOf(2, 1, 0, 100'000, 5), RecordOf(3, 0, 0, 0)};
  std::vector<RecordKey> keys = KeysOf(records);
  EXPECT_THAT(tier->Exists(keys), Each(false));
  EXPECT_EQ(tier->Get(keys)[0], std::nullopt);
  ASSERT_TRUE(tier->Put(records).ok());
  keys.push_back(RecordOf(9, 0, 0, 1).key);
  for (int round = 0; round < 2; ++round) {
    EXPECT_THAT(tier->Exists(keys), ElementsAre(true, true, true, true, false));
    const auto found = tier->Get(keys);
    ASSERT_EQ(found.size(), 5U);
    for (size_t i = 0; i < 4; ++i) ExpectFound(found[i], records[i]);
    EXPECT_EQ(found[4], std::nullopt);
    ASSERT_TRUE(tier->Flush().ok());
  }
  const TierStats stats = tier->Stats();
  EXPECT_EQ(stats.records, 4);
  EXPECT_EQ(stats.blocks, 3);
  EXPECT_EQ(stats.bytes, 101'001);
  EXPECT_EQ(stats.hits, 8U);
  EXPECT_EQ(stats.misses, 6U);
  EXPECT_TRUE(tier->Get({}).empty());
  EXPECT_TRUE(tier->Exists({}).empty());
  EXPECT_TRUE(tier->Put({}).ok());
  EXPECT_TRUE(tier->Erase({}).ok());
}

TEST_P(TierSuite, WhatIsThereStays) {
  const auto tier = Make();
  TierRecord record = RecordOf(1, 0, 0, 100);
  ASSERT_TRUE(Put(*tier, {record, record}).ok());
  TierRecord other = record;
  other.bytes = std::vector<std::byte>(50, std::byte{1});
  ASSERT_TRUE(Put(*tier, {other}).ok());
  ExpectFound(tier->Get(std::vector{record.key})[0], record);
  EXPECT_EQ(tier->Stats().records, 1);
}

TEST_P(TierSuite, EraseTakesBlocksAndWhatStandsOnThem) {
  const auto tier = Make();
  const std::vector<TierRecord> records = {RecordOf(1, 0, 0, 100), RecordOf(2, 1, 0, 100),
                                           RecordOf(2, 1, 1, 100), RecordOf(3, 2, 0, 100)};
  ASSERT_TRUE(tier->Put(records).ok());
  ASSERT_TRUE(tier->Flush().ok());
  ASSERT_TRUE(tier->Erase(std::vector{BlockNamed(2), BlockNamed(77)}).ok());
  EXPECT_THAT(tier->Exists(KeysOf(records)), ElementsAre(true, false, false, false));
  EXPECT_EQ(tier->Get(KeysOf(records))[1], std::nullopt);
  // It is no curse.
  ASSERT_TRUE(Put(*tier, {records[1]}).ok());
  ExpectFound(tier->Get(KeysOf(records))[1], records[1]);
  EXPECT_EQ(tier->Stats().records, 2);
}

TEST_P(TierSuite, MakesRoomFromTheLeavesThatWereUnusedLongest) {
  const auto tier = Make({.bytes = 5000});
  // Two conversations that share block 1.
  const std::vector<TierRecord> records = {RecordOf(1, 0, 0, 1000), RecordOf(2, 1, 0, 1000),
                                           RecordOf(3, 2, 0, 1000), RecordOf(4, 1, 0, 1000),
                                           RecordOf(5, 4, 0, 1000)};
  for (const TierRecord& record : records) ASSERT_TRUE(Put(*tier, {record}).ok());
  tier->Get(std::vector{records[1].key, records[2].key});
  ASSERT_TRUE(Put(*tier, {RecordOf(6, 0, 0, 1000)}).ok());
  EXPECT_THAT(tier->Exists(KeysOf(records)), ElementsAre(true, true, true, true, false));
  ASSERT_TRUE(Put(*tier, {RecordOf(7, 0, 0, 1000)}).ok());
  EXPECT_THAT(tier->Exists(KeysOf(records)), ElementsAre(true, true, true, false, false));
  const TierStats stats = tier->Stats();
  EXPECT_EQ(stats.evicted, 2U);
  EXPECT_EQ(stats.bytes, 5000);
  EXPECT_EQ(stats.bytes_limit, 5000);
}

TEST_P(TierSuite, RefusesWhatFindsNoRoomAndKeepsTheRest) {
  const auto tier = Make({.bytes = 3000});
  const std::vector<TierRecord> records = {RecordOf(1, 0, 0, 1000), RecordOf(2, 1, 0, 1000),
                                           RecordOf(3, 2, 0, 1000), RecordOf(4, 3, 0, 1000)};
  EXPECT_EQ(tier->Put(records).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(tier->Exists(KeysOf(records)), ElementsAre(true, true, true, false));
  EXPECT_EQ(Put(*tier, {RecordOf(5, 0, 0, 3001)}).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(tier->Stats().refused, 2U);
  EXPECT_EQ(tier->Stats().evicted, 0U);
}

TEST_P(TierSuite, KeepsTenantsToTheirQuota) {
  const auto tier = Make({.bytes = 0, .tenant_bytes = 2000});
  const std::vector<TierRecord> records = {RecordOf(1, 0, 0, 1000, 1), RecordOf(2, 0, 0, 1000, 2),
                                           RecordOf(3, 0, 0, 1000, 2), RecordOf(4, 0, 0, 1000, 2)};
  for (const TierRecord& record : records) ASSERT_TRUE(Put(*tier, {record}).ok());
  EXPECT_THAT(tier->Exists(KeysOf(records)), ElementsAre(true, false, true, true));
}

/// Random operations beside a map. No limits: whatever was put is there until it is erased.
TEST_P(TierSuite, DoesAsAMapDoes) {
  const auto tier = Make();
  std::map<std::pair<int, int>, TierRecord> map;  // by block and head
  SplitMix random(1);
  const auto any = [&] {
    const int n = static_cast<int>(1 + random.Below(40));
    const int head = static_cast<int>(random.Below(3));
    return std::pair(std::pair(n, head),
                     RecordOf(n, n / 2, head, static_cast<int64_t>(n * 37 % 500)));
  };
  for (int i = 0; i < 800; ++i) {
    const uint64_t what = random.Below(10);
    if (what < 4) {
      std::vector<TierRecord> batch;
      for (uint64_t b = random.Below(6); b > 0; --b) {
        const auto [place, record] = any();
        batch.push_back(record);
        map.emplace(place, record);
      }
      ASSERT_TRUE(tier->Put(batch).ok());
    } else if (what < 8) {
      std::vector<std::pair<int, int>> places;
      std::vector<RecordKey> keys;
      for (uint64_t b = random.Below(6); b > 0; --b) {
        const auto [place, record] = any();
        places.push_back(place);
        keys.push_back(record.key);
      }
      const auto exists = tier->Exists(keys);
      const auto found = tier->Get(keys);
      for (size_t k = 0; k < keys.size(); ++k) {
        ASSERT_EQ(exists[k], map.contains(places[k])) << "operation " << i;
        ASSERT_EQ(found[k].has_value(), map.contains(places[k])) << "operation " << i;
        if (found[k]) ExpectFound(found[k], map.at(places[k]));
      }
    } else if (what < 9) {
      const int n = any().first.first;
      ASSERT_TRUE(tier->Erase(std::vector{BlockNamed(n)}).ok());
      std::set<int> gone = {n};
      for (int other = n; other <= 40; ++other) {
        const bool there = map.lower_bound({other, 0}) != map.lower_bound({other + 1, 0});
        if (there && gone.contains(other / 2)) gone.insert(other);
      }
      std::erase_if(map, [&](const auto& kept) { return gone.contains(kept.first.first); });
    } else {
      ASSERT_TRUE(tier->Flush().ok());
    }
  }
  EXPECT_EQ(tier->Stats().records, static_cast<int64_t>(map.size()));
}

/// All pages of a tier's list.
std::vector<ListedBlock> ListAll(ListableTier& tier, size_t most) {
  std::vector<ListedBlock> all;
  std::optional<BlockHash> after;
  for (;;) {
    auto page = tier.List(after, most);
    EXPECT_TRUE(page.ok()) << page.status();
    if (!page.ok() || page->empty()) return all;
    EXPECT_LE(page->size(), most);
    for (ListedBlock& block : *page) {
      EXPECT_TRUE(!after || *after < block.block) << "in order";
      after = block.block;
      all.push_back(std::move(block));
    }
  }
}

TEST_P(TierSuite, ListsWhatItHasInPages) {
  const auto tier = std::dynamic_pointer_cast<ListableTier>(Make());
  ASSERT_EQ(tier != nullptr, GetParam().lists);
  if (tier == nullptr) return;
  EXPECT_THAT(ListAll(*tier, 10), ::testing::IsEmpty());
  std::vector<TierRecord> records;
  for (int n = 1; n <= 50; ++n) {
    for (int head = 0; head <= n % 3; ++head) records.push_back(RecordOf(n, n / 2, head, n, 7));
  }
  ASSERT_TRUE(tier->Put(records).ok());
  ASSERT_TRUE(tier->Erase(std::vector{BlockNamed(50)}).ok());
  for (const size_t most : {1, 7, 1000}) {
    const std::vector<ListedBlock> all = ListAll(*tier, most);
    ASSERT_EQ(all.size(), 49U);
    std::map<BlockHash, ListedBlock> by_hash;
    for (const ListedBlock& block : all) by_hash[block.block] = block;
    for (int n = 1; n < 50; ++n) {
      const ListedBlock& block = by_hash.at(BlockNamed(n));
      EXPECT_EQ(block.before, BlockNamed(n / 2));
      EXPECT_EQ(block.tenant, 7U);
      EXPECT_GT(block.last_use, 0U);
      std::set<RecordKey> keys;
      for (const ListedRecord& record : block.records) {
        keys.insert(record.key);
        EXPECT_EQ(record.bytes, n);
        EXPECT_NE(record.tiers, 0);
      }
      std::set<RecordKey> expected;
      for (int head = 0; head <= n % 3; ++head) expected.insert(RecordOf(n, n / 2, head, n).key);
      EXPECT_EQ(keys, expected);
    }
  }
}

TEST_P(TierSuite, ShowsEveryCopyWithoutUsingIt) {
  const auto tier = std::dynamic_pointer_cast<ListableTier>(Make());
  ASSERT_EQ(tier != nullptr, GetParam().lists);
  if (tier == nullptr) return;
  const std::vector<TierRecord> records = {RecordOf(1, 0, 0, 1000), RecordOf(2, 0, 0, 0),
                                           RecordOf(3, 0, 0, 1000)};
  ASSERT_TRUE(tier->Put(records).ok());
  ASSERT_TRUE(tier->Flush().ok());
  const TierStats before = tier->Stats();
  const std::vector<ListedBlock> listed = ListAll(*tier, 10);
  std::vector<RecordKey> keys = KeysOf(records);
  keys.push_back(RecordOf(9, 0, 0, 1).key);
  ASSERT_EQ(listed.size(), records.size());
  for (const ListedBlock& block : listed) {
    for (const TierKind kind : {TierKind::kHost, TierKind::kDisk, TierKind::kRemote}) {
      const auto peeked = tier->Peek(kind, keys);
      ASSERT_EQ(peeked.size(), keys.size());
      EXPECT_EQ(peeked[3].state, PeekedRecord::State::kMissing);
      for (size_t i = 0; i < records.size(); ++i) {
        if (records[i].block != block.block) continue;
        const bool there = (block.records.front().tiers & TierBit(kind)) != 0;
        EXPECT_EQ(peeked[i].state == PeekedRecord::State::kThere, there);
        if (!there) continue;
        EXPECT_EQ(peeked[i].bytes, records[i].bytes);
      }
    }
  }
  EXPECT_EQ(tier->Stats().hits, before.hits);
  EXPECT_EQ(tier->Stats().misses, before.misses);
  EXPECT_EQ(ListAll(*tier, 10), listed) << "no use";
}

TEST_P(TierSuite, DropsTheseRecordsAlone) {
  const auto tier = std::dynamic_pointer_cast<ListableTier>(Make());
  ASSERT_EQ(tier != nullptr, GetParam().lists);
  if (tier == nullptr) return;
  // Block 2 stands on block 1, and block 1 has two records.
  const std::vector<TierRecord> records = {RecordOf(1, 0, 0, 1000), RecordOf(2, 1, 0, 1000)};
  TierRecord beside = RecordOf(3, 0, 0, 1000);
  beside.block = records[0].block;
  ASSERT_TRUE(tier->Put(records).ok());
  ASSERT_TRUE(tier->Put(std::vector{beside}).ok());
  ASSERT_TRUE(tier->Flush().ok());
  const std::vector<RecordKey> keys = {records[0].key, records[1].key, beside.key};
  ASSERT_TRUE(tier->Drop(std::vector{records[0].key, RecordOf(9, 0, 0, 1).key}).ok());
  EXPECT_THAT(tier->Exists(keys), ElementsAre(false, true, true));
  EXPECT_EQ(ListAll(*tier, 10).size(), 2U);
  ASSERT_TRUE(tier->Drop(std::vector{beside.key}).ok());
  EXPECT_THAT(tier->Exists(keys), ElementsAre(false, true, false));
  EXPECT_EQ(ListAll(*tier, 10).size(), 1U);
  ASSERT_TRUE(tier->Put(std::vector{beside}).ok());
  const auto found = tier->Get(keys);
  EXPECT_FALSE(found[0].has_value());
  ASSERT_TRUE(found[2].has_value());
  EXPECT_EQ(found[2]->bytes, beside.bytes);
}

/// Many threads put, get, evict and erase; whatever is found is right.
TEST_P(TierSuite, ServesManyThreads) {
  const auto tier = Make({.bytes = 40'000});
  std::atomic<int> wrong = 0;
  std::atomic<int> right = 0;
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      SplitMix random(t);
      for (int i = 0; i < 150; ++i) {
        std::vector<TierRecord> batch;
        for (int b = 0; b < 4; ++b) {
          const int n = static_cast<int>(1 + random.Below(60));
          batch.push_back(RecordOf(n, n / 2, static_cast<int>(random.Below(2)), 500));
        }
        const uint64_t what = random.Below(16);
        if (what < 7) {
          static_cast<void>(tier->Put(batch));
        } else if (what < 14) {
          const auto found = tier->Get(KeysOf(batch));
          for (size_t k = 0; k < batch.size(); ++k) {
            if (!found[k]) continue;
            (found[k]->bytes == batch[k].bytes ? right : wrong) += 1;
          }
        } else if (what < 15) {
          static_cast<void>(tier->Erase(std::vector{batch[0].block}));
        } else {
          static_cast<void>(tier->Flush());
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(right, 0);
  EXPECT_LE(tier->Stats().bytes, 40'000);
}

}  // namespace
}  // namespace tandem::kv_store
