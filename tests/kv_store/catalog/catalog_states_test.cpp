#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <tuple>

#include "kv_store/catalog/catalog.h"
#include "kv_store/catalog/catalog_garbage.h"
#include "kv_store/pages/pool_size.h"
#include "kv_store/tiers/memory_tier.h"
#include "tests/support/changed_bytes.h"
#include "tests/support/kv_chain.h"
#include "tests/support/random.h"

// Records of Infini-attention: what is before a state may be absent.

namespace tandem::kv_store {
namespace {

using testing::CountedTokens;
using ::testing::IsEmpty;
using testing::KvChain;
using testing::SplitMix;
using ::testing::UnorderedElementsAre;

constexpr int32_t kPages = 0;  // layer groups
constexpr int32_t kStates = 1;
constexpr size_t kHeads = 3;
constexpr int32_t kTailTokens = 9;

/// A text of six blocks in segments of two, and a tail. Of its records a test keeps some.
struct KeptText {
  static constexpr size_t kBlocks = 6;  // and the tail

  KeptText() {
    chain.geometry.groups = {{.layers = {0, 1}, .segment = 128},
                             {.layers = {0, 1}, .segment = 128, .states = true}};
    tokens = CountedTokens(kBlocks * core::kPageTokens + kTailTokens);
    hashes = chain.Blocks(tokens, /*tail=*/true);
    std::vector<TierRecord> all = chain.Records(tokens, /*tail=*/true);
    for (size_t i = 0; i < all.size(); ++i) {
      const size_t block = i / (2 * kHeads);
      const auto group = static_cast<int32_t>(i / kHeads % 2);
      // There are states where segments end.
      if (group == kStates && (block == kBlocks || block % 2 == 0)) continue;
      records.push_back({.block = block, .group = group, .head = i % kHeads, .record = all[i]});
    }
  }

  struct Kept {
    size_t block = 0;
    int32_t group = 0;
    size_t head = 0;
    TierRecord record;
    bool is_good = true;
  };
  void Keep(const std::set<size_t>& pages, const std::set<size_t>& states) {
    std::erase_if(records, [&](const Kept& one) {
      return !(one.group == kStates ? states : pages).contains(one.block);
    });
  }
  Kept& At(size_t block, int32_t group, size_t head) {
    return *std::find_if(records.begin(), records.end(), [&](const Kept& one) {
      return one.block == block && one.group == group && one.head == head;
    });
  }
  void Lose(size_t block, int32_t group, size_t head) {
    std::erase_if(records, [&](const Kept& one) {
      return one.block == block && one.group == group && one.head == head;
    });
  }
  void Damage(Kept& one) {
    testing::Flip(one.record.bytes, 200);
    one.is_good = false;
  }

  Catalog Read() {
    MemoryTier tier(TierLimits{});
    for (const Kept& one : records) EXPECT_TRUE(tier.Put(std::span(&one.record, 1)).ok());
    auto catalog = Catalog::Read(tier, StoredNames(), {.reads_all = true});
    EXPECT_TRUE(catalog.ok()) << catalog.status();
    return *std::move(catalog);
  }
  size_t Number(const Catalog& catalog, size_t catalog_block) const {
    const BlockHash& hash = catalog.blocks()[catalog_block].hash;
    return static_cast<size_t>(std::find(hashes.begin(), hashes.end(), hash) - hashes.begin());
  }
  /// Blocks of the text for which `is` holds.
  template <typename Is>
  std::set<size_t> Those(const Catalog& catalog, Is is) const {
    std::set<size_t> those;
    for (size_t i = 0; i < catalog.blocks().size(); ++i) {
      if (is(i)) those.insert(Number(catalog, i));
    }
    return those;
  }
  std::set<size_t> Usable(const Catalog& catalog) const {
    return Those(catalog, [&](size_t i) { return catalog.IsUsable(i, 0); });
  }
  /// What goes: block of the text, why, how many records, and whether nothing of it stays.
  using Row = std::tuple<size_t, GarbageReason, size_t, bool>;
  std::vector<Row> Goes(const Catalog& catalog, const GarbageRules& rules = {}) const {
    std::vector<Row> rows;
    for (const Garbage& one : FindGarbage(catalog, rules)) {
      rows.emplace_back(Number(catalog, one.block), one.reason, one.records.size(), one.whole);
    }
    return rows;
  }

  /// Blocks behind which a server can go on, by the definition of attention (pool_size.h).
  std::set<size_t> Places() const {
    const auto has = [&](size_t block, int32_t group) {
      size_t heads = 0;
      for (const Kept& one : records) {
        if (one.block == block && one.group == group && one.is_good) ++heads;
      }
      return heads == kHeads;
    };
    std::set<size_t> places;
    for (size_t last = 0; last <= kBlocks; ++last) {
      const auto end = static_cast<int64_t>(last) * core::kPageTokens +
                       (last == kBlocks ? kTailTokens : core::kPageTokens);
      bool usable = true;
      for (size_t i = 0; i <= last; ++i) {
        for (const int32_t group : {kPages, kStates}) {
          const auto& needs = chain.geometry.groups[static_cast<size_t>(group)];
          if (NeedsBlock(needs, end, static_cast<int64_t>(i))) usable = usable && has(i, group);
        }
      }
      if (usable) places.insert(last);
    }
    return places;
  }

  KvChain chain;
  std::vector<int32_t> tokens;
  std::vector<BlockHash> hashes;
  std::vector<Kept> records;
};

TEST(CatalogOfStates, AStateIsUsableWhateverIsBeforeIt) {
  KeptText text;
  text.Keep({4, 5, 6}, {3, 5});
  const Catalog catalog = text.Read();
  EXPECT_EQ(catalog.models()[0].segment, 128);
  EXPECT_THAT(text.Usable(catalog), UnorderedElementsAre(3, 4, 5, 6));
  for (size_t i = 0; i < catalog.blocks().size(); ++i) {
    EXPECT_FALSE(catalog.IsAnchored(i));
    EXPECT_FALSE(catalog.FirstToken(i).has_value());
  }
  EXPECT_THAT(text.Goes(catalog), IsEmpty());
}

TEST(CatalogOfStates, WithTheBlocksBeforeItPositionsAreKnown) {
  KeptText text;
  text.Keep({0, 1, 2, 3, 4}, {3});
  const Catalog catalog = text.Read();
  EXPECT_THAT(text.Usable(catalog), UnorderedElementsAre(0, 3, 4))
      << "behind block 1 a segment begins, whose state is not there";
  for (size_t i = 0; i < catalog.blocks().size(); ++i) {
    EXPECT_EQ(catalog.FirstToken(i),
              static_cast<int64_t>(text.Number(catalog, i)) * core::kPageTokens);
    EXPECT_TRUE(catalog.IsReachable(i, 0));
  }
  EXPECT_THAT(text.Goes(catalog), IsEmpty());
}

TEST(CatalogOfStates, ADamagedStateGoesAlone) {
  KeptText text;
  text.Keep({0, 1, 2, 3, 4}, {1, 3});
  text.Damage(text.At(3, kStates, 1));
  const Catalog catalog = text.Read();
  EXPECT_THAT(text.Usable(catalog), UnorderedElementsAre(0, 1, 2));
  EXPECT_THAT(text.Goes(catalog),
              UnorderedElementsAre(KeptText::Row(3, GarbageReason::kDamaged, 3, false)));
  EXPECT_THAT(text.Goes(catalog, {.useless = false}),
              UnorderedElementsAre(KeptText::Row(3, GarbageReason::kDamaged, 1, false)));
}

TEST(CatalogOfStates, BehindADamagedStateWhatStandsOnAnotherStays) {
  KeptText text;
  text.Keep({2, 3, 4, 5, 6}, {1, 5});
  text.Damage(text.At(1, kStates, 0));
  const Catalog catalog = text.Read();
  EXPECT_THAT(text.Usable(catalog), UnorderedElementsAre(5, 6));
  EXPECT_THAT(text.Goes(catalog),
              UnorderedElementsAre(KeptText::Row(1, GarbageReason::kDamaged, 3, true),
                                   KeptText::Row(2, GarbageReason::kOrphaned, 3, true),
                                   KeptText::Row(3, GarbageReason::kOrphaned, 3, true),
                                   KeptText::Row(4, GarbageReason::kOrphaned, 3, true)));
}

TEST(CatalogOfStates, AStateWithoutAHeadIsIncomplete) {
  KeptText text;
  text.Keep({2, 4}, {1, 3});
  text.Lose(1, kStates, 2);
  const Catalog catalog = text.Read();
  EXPECT_THAT(text.Usable(catalog), UnorderedElementsAre(3, 4));
  EXPECT_THAT(text.Goes(catalog),
              UnorderedElementsAre(KeptText::Row(1, GarbageReason::kIncomplete, 2, true),
                                   KeptText::Row(2, GarbageReason::kOrphaned, 3, true)));
  EXPECT_THAT(text.Goes(catalog, {.useless = false}), IsEmpty()) << "other hosts may have the rest";
  EXPECT_THAT(text.Goes(catalog, {.settled_before = 1}), IsEmpty()) << "it may be on its way";
}

TEST(CatalogOfStates, DamagedPagesBeforeAStateDoNotTakeItAlong) {
  KeptText text;
  text.Keep({0, 1, 2, 3, 4}, {3});
  text.Damage(text.At(0, kPages, 0));
  text.Damage(text.At(3, kPages, 2));
  const Catalog catalog = text.Read();
  EXPECT_THAT(text.Usable(catalog), UnorderedElementsAre(3, 4));
  EXPECT_THAT(text.Goes(catalog),
              UnorderedElementsAre(KeptText::Row(0, GarbageReason::kDamaged, 3, true),
                                   KeptText::Row(1, GarbageReason::kOrphaned, 3, true),
                                   KeptText::Row(2, GarbageReason::kOrphaned, 3, true),
                                   KeptText::Row(3, GarbageReason::kDamaged, 3, false)))
      << "of block 3 the state stays";
}

TEST(CatalogOfStates, WhatMakesRoomCountsWhatStays) {
  KeptText text;
  text.Keep({0, 1}, {1});
  text.Damage(text.At(1, kStates, 0));
  const Catalog catalog = text.Read();
  EXPECT_THAT(text.Goes(catalog, {.most_bytes = 0}),
              UnorderedElementsAre(KeptText::Row(1, GarbageReason::kDamaged, 3, false),
                                   KeptText::Row(1, GarbageReason::kRoom, 3, true),
                                   KeptText::Row(0, GarbageReason::kRoom, 3, true)));
}

/// Whatever is missing or damaged: what the catalog calls usable is what a server can use, and no
/// place to go on from is lost when the garbage goes.
TEST(CatalogOfStates, NothingThatAServerCanUseGoes) {
  int places = 0;
  int removed = 0;
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    KeptText text;
    SplitMix random(seed);
    const uint64_t lost_of_100 = seed % 40;
    // Now and then a whole part is lost, as of a segment that was left behind.
    std::set<std::pair<size_t, int32_t>> parts;
    for (size_t block = 0; block <= KeptText::kBlocks; ++block) {
      for (const int32_t group : {kPages, kStates}) {
        if (random.Next() % 100 < 2 * lost_of_100) parts.emplace(block, group);
      }
    }
    std::erase_if(text.records, [&](const KeptText::Kept& one) {
      return parts.contains({one.block, one.group}) || random.Next() % 300 < lost_of_100;
    });
    for (KeptText::Kept& one : text.records) {
      if (random.Next() % 400 < lost_of_100) text.Damage(one);
    }
    std::set<size_t> heads;
    bool states = false;
    for (const KeptText::Kept& one : text.records) {
      if (!one.is_good) continue;
      heads.insert(one.head);
      states = states || one.group == kStates;
    }
    // What no record tells nobody knows.
    if (!states || heads.size() != kHeads) continue;
    const Catalog catalog = text.Read();
    const std::set<size_t> before = text.Places();
    EXPECT_EQ(text.Usable(catalog), before) << "seed " << seed;
    std::set<RecordKey> goes;
    for (const Garbage& one : FindGarbage(catalog, {})) {
      EXPECT_FALSE(one.whole && catalog.IsUsable(one.block, 0)) << "seed " << seed;
      for (const size_t r : one.records) {
        EXPECT_TRUE(goes.insert(catalog.blocks()[one.block].records[r].key).second);
      }
    }
    std::erase_if(text.records,
                  [&](const KeptText::Kept& one) { return goes.contains(one.record.key); });
    EXPECT_EQ(text.Places(), before) << "seed " << seed;
    for (const KeptText::Kept& one : text.records) EXPECT_TRUE(one.is_good) << "seed " << seed;
    places += static_cast<int>(before.size());
    removed += static_cast<int>(goes.size());
  }
  EXPECT_GT(places, 300);
  EXPECT_GT(removed, 300);
}

}  // namespace
}  // namespace tandem::kv_store
