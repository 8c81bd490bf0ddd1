#include "kv_store/catalog/catalog.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>

#include "kv_store/catalog/catalog_garbage.h"
#include "kv_store/tiers/encrypted_tier.h"
#include "kv_store/tiers/memory_tier.h"
#include "tests/support/changed_bytes.h"
#include "tests/support/kv_chain.h"

namespace tandem::kv_store {
namespace {

using testing::CountedTokens;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::KvChain;
using ::testing::UnorderedElementsAre;

constexpr int32_t kBlock = core::kPageTokens;

/// A tier that has what a test says, and counts what is read of it.
class ReadTier : public MemoryTier {
 public:
  ReadTier() : MemoryTier(TierLimits{}) {}
  std::vector<PeekedRecord> Peek(TierKind tier, std::span<const RecordKey> keys) override {
    reads += static_cast<int>(keys.size());
    return MemoryTier::Peek(tier, keys);
  }
  int reads = 0;
};

Catalog MustRead(ListableTier& tier, const StoredNames& names = StoredNames(),
                 bool reads_all = false) {
  auto catalog = Catalog::Read(tier, names, {.reads_all = reads_all});
  EXPECT_TRUE(catalog.ok()) << catalog.status();
  return *std::move(catalog);
}

size_t At(const Catalog& catalog, const BlockHash& block) {
  const auto found = catalog.Find(block);
  EXPECT_TRUE(found.has_value());
  return found.value_or(0);
}

std::vector<std::pair<size_t, GarbageReason>> Reasons(const Catalog& catalog,
                                                      const GarbageRules& rules = {}) {
  std::vector<std::pair<size_t, GarbageReason>> reasons;
  for (const Garbage& one : FindGarbage(catalog, rules))
    reasons.emplace_back(one.block, one.reason);
  return reasons;
}

TEST(Catalog, KnowsWholeChainsByReadingHardlyAnything) {
  ReadTier tier;
  const KvChain chain;
  const std::vector<int32_t> tokens = CountedTokens(10 * kBlock + 7);
  ASSERT_TRUE(tier.Put(chain.Records(tokens, /*tail=*/true)).ok());
  const Catalog catalog = MustRead(tier);
  ASSERT_EQ(catalog.models().size(), 1U);
  EXPECT_EQ(catalog.models()[0].fingerprint, chain.fingerprint);
  EXPECT_THAT(catalog.models()[0].kv_heads, ElementsAre(0, 1, 2));
  EXPECT_THAT(catalog.models()[0].layers, ElementsAre(std::pair(0, 2)));
  EXPECT_EQ(tier.reads, 3) << "a record of each KV head";
  const std::vector<BlockHash> blocks = chain.Blocks(tokens, true);
  const std::vector<size_t> path = catalog.ChainTo(At(catalog, blocks.back()));
  ASSERT_EQ(path.size(), blocks.size());
  for (size_t i = 0; i < path.size(); ++i) {
    EXPECT_EQ(catalog.blocks()[path[i]].hash, blocks[i]);
    EXPECT_TRUE(catalog.IsUsable(path[i], 0));
    EXPECT_EQ(catalog.Tokens(path[i], 0), i + 1 < path.size() ? kBlock : 7);
  }
  EXPECT_THAT(Reasons(catalog), IsEmpty());
}

TEST(Catalog, SealedChainsAreToldWithTheirKeyOnly) {
  const EncryptedBox box(StateKey{1});
  const EncryptedBox wrong(StateKey{2});
  auto memory = std::make_unique<MemoryTier>(TierLimits{});
  MemoryTier& stored = *memory;
  EncryptedTier tier(std::move(memory), box);
  KvChain chain;
  chain.tenant = 77;
  const std::vector<int32_t> tokens = CountedTokens(3 * kBlock + 5);
  ASSERT_TRUE(tier.Put(chain.Records(tokens, true)).ok());
  const StoredNames names(&box);
  for (const bool reads_all : {false, true}) {
    const Catalog catalog = MustRead(stored, names, reads_all);
    const std::vector<BlockHash> blocks = chain.Blocks(tokens, true);
    for (size_t i = 0; i < blocks.size(); ++i) {
      const size_t at = At(catalog, names.Block(blocks[i]));
      EXPECT_EQ(catalog.blocks()[at].tenant, 77U);
      EXPECT_EQ(catalog.blocks()[at].hash, blocks[i]);
      EXPECT_TRUE(catalog.IsUsable(at, 0));
      EXPECT_EQ(catalog.Tokens(at, 0), i < 3 ? kBlock : 5);
    }
  }
  const auto refused = Catalog::Read(stored, StoredNames(&wrong), {.reads_all = true});
  EXPECT_THAT(Message(refused.status()), HasSubstr("none of"));
  const auto without = Catalog::Read(stored, StoredNames(), {.reads_all = true});
  EXPECT_TRUE(absl::IsFailedPrecondition(without.status()));
  EXPECT_THAT(Message(without.status()), HasSubstr("--state-key"));
}

TEST(Catalog, TwoModelsWithTheSameTokensAreToldApart) {
  MemoryTier tier(TierLimits{});
  const KvChain one;
  KvChain other;
  other.fingerprint = {9};
  other.geometry.kv_heads = 1;
  const std::vector<int32_t> tokens = CountedTokens(2 * kBlock);
  ASSERT_TRUE(tier.Put(one.Records(tokens)).ok());
  ASSERT_TRUE(tier.Put(other.Records(CountedTokens(kBlock))).ok());
  const Catalog catalog = MustRead(tier);
  ASSERT_EQ(catalog.models().size(), 2U);
  const size_t m = catalog.models()[0].fingerprint == one.fingerprint ? 0 : 1;
  const std::vector<BlockHash> blocks = one.Blocks(tokens);
  EXPECT_TRUE(catalog.IsUsable(At(catalog, blocks[0]), m));
  EXPECT_TRUE(catalog.IsUsable(At(catalog, blocks[0]), 1 - m));
  EXPECT_TRUE(catalog.IsUsable(At(catalog, blocks[1]), m));
  EXPECT_FALSE(catalog.Has(At(catalog, blocks[1]), 1 - m));
  EXPECT_THAT(Reasons(catalog), IsEmpty());
}

TEST(Catalog, DamageOfOneModelLeavesWhatAnotherHasInTheBlock) {
  MemoryTier tier(TierLimits{});
  const KvChain one;
  KvChain other;
  other.fingerprint = {9};
  const std::vector<int32_t> tokens = CountedTokens(2 * kBlock);
  std::vector<TierRecord> records = one.Records(tokens);
  testing::Flip(records[0].bytes, 200);
  ASSERT_TRUE(tier.Put(records).ok());
  ASSERT_TRUE(tier.Put(other.Records(tokens)).ok());
  const Catalog catalog = MustRead(tier, StoredNames(), /*reads_all=*/true);
  const std::vector<Garbage> garbage = FindGarbage(catalog, {});
  std::set<RecordKey> expected;
  for (size_t i = 0; i < 3; ++i) expected.insert(records[i].key);
  ASSERT_EQ(garbage.size(), 1U);
  EXPECT_FALSE(garbage[0].whole);
  std::set<RecordKey> goes;
  for (const size_t record : garbage[0].records) {
    goes.insert(catalog.blocks()[garbage[0].block].records[record].key);
  }
  EXPECT_EQ(goes, expected);
}

/// A chain of four blocks with one record of the second missing, changed, or not its own.
struct Broken {
  KvChain chain;
  std::vector<int32_t> tokens = CountedTokens(4 * kBlock);
  std::vector<TierRecord> records = chain.Records(tokens);
  std::vector<BlockHash> blocks = chain.Blocks(tokens);
  MemoryTier tier{TierLimits{}};

  Catalog Read() {
    EXPECT_TRUE(tier.Put(records).ok());
    return MustRead(tier, StoredNames(), /*reads_all=*/true);
  }
};

TEST(Catalog, AMissingHeadMakesTheRestUseless) {
  Broken broken;
  broken.records.erase(broken.records.begin() + 3 + 1);
  const Catalog catalog = broken.Read();
  const size_t second = At(catalog, broken.blocks[1]);
  EXPECT_THAT(catalog.Missing(second, 0), ElementsAre(std::pair(1, 0)));
  EXPECT_TRUE(catalog.IsUsable(At(catalog, broken.blocks[0]), 0));
  EXPECT_FALSE(catalog.IsUsable(second, 0));
  EXPECT_FALSE(catalog.IsUsable(At(catalog, broken.blocks[3]), 0));
  EXPECT_THAT(
      Reasons(catalog),
      UnorderedElementsAre(std::pair(second, GarbageReason::kIncomplete),
                           std::pair(At(catalog, broken.blocks[2]), GarbageReason::kOrphaned),
                           std::pair(At(catalog, broken.blocks[3]), GarbageReason::kOrphaned)));
  EXPECT_THAT(Reasons(catalog, {.useless = false}), IsEmpty());
  EXPECT_EQ(Reasons(catalog, {.settled_before = catalog.blocks()[second].last_use + 1}).size(), 3U);
  EXPECT_THAT(Reasons(catalog, {.settled_before = 1}), IsEmpty()) << "it may be on its way";
}

TEST(Catalog, DamageIsFoundAndNamed) {
  Broken broken;
  testing::Flip(broken.records[3].bytes, 200);
  const Catalog catalog = broken.Read();
  const size_t second = At(catalog, broken.blocks[1]);
  int damaged = 0;
  for (const CatalogBlock& block : catalog.blocks()) {
    for (const CatalogRecord& record : block.records) {
      if (record.health == RecordHealth::kDamaged) {
        ++damaged;
        EXPECT_THAT(record.problem, HasSubstr("host: KV record"));
        EXPECT_EQ(record.kv_head, 0);
        EXPECT_EQ(record.model, 0U);
      } else {
        EXPECT_EQ(record.health, RecordHealth::kGood) << record.problem;
      }
    }
  }
  EXPECT_EQ(damaged, 1);
  EXPECT_THAT(
      Reasons(catalog, {.useless = false}),
      UnorderedElementsAre(std::pair(second, GarbageReason::kDamaged),
                           std::pair(At(catalog, broken.blocks[2]), GarbageReason::kOrphaned),
                           std::pair(At(catalog, broken.blocks[3]), GarbageReason::kOrphaned)));
}

TEST(Catalog, ARecordInAnothersPlaceIsDamage) {
  Broken broken;
  std::swap(broken.records[3].bytes, broken.records[4].bytes);
  std::swap(broken.records[0].bytes, broken.records[9].bytes);
  const Catalog catalog = broken.Read();
  int damaged = 0;
  for (const CatalogBlock& block : catalog.blocks()) {
    for (const CatalogRecord& record : block.records) {
      if (record.health == RecordHealth::kDamaged) ++damaged;
    }
  }
  EXPECT_EQ(damaged, 4);
}

TEST(Catalog, ANewerProgramsRecordsStay) {
  Broken broken;
  testing::SetByte(broken.records[3].bytes, 8, std::byte{9});  // the version
  const Catalog catalog = broken.Read();
  const size_t second = At(catalog, broken.blocks[1]);
  EXPECT_FALSE(catalog.IsUsable(second, 0));
  for (const auto& [block, reason] : Reasons(catalog)) {
    EXPECT_NE(block, second);
    EXPECT_NE(reason, GarbageReason::kDamaged);
  }
}

TEST(Catalog, WhatStandsOnNothingIsAnOrphan) {
  Broken broken;
  broken.records.erase(broken.records.begin(), broken.records.begin() + 3);
  const Catalog catalog = broken.Read();
  EXPECT_EQ(Reasons(catalog).size(), 3U);
  for (const auto& [block, reason] : Reasons(catalog)) {
    EXPECT_EQ(reason, GarbageReason::kOrphaned);
    EXPECT_FALSE(catalog.IsAnchored(block));
  }
}

TEST(Catalog, WhatIsUnusedLongestGoesFromTheEnds) {
  MemoryTier tier(TierLimits{});
  const KvChain chain;
  const std::vector<int32_t> old_tokens = CountedTokens(3 * kBlock);
  std::vector<int32_t> new_tokens = CountedTokens(2 * kBlock);
  for (int32_t& token : new_tokens) token += token >= kBlock ? 1000 : 0;  // one block shared
  ASSERT_TRUE(tier.Put(chain.Records(old_tokens)).ok());
  ASSERT_TRUE(tier.Put(chain.Records(new_tokens)).ok());
  const Catalog catalog = MustRead(tier);
  const std::vector<BlockHash> old_blocks = chain.Blocks(old_tokens);
  const std::vector<BlockHash> new_blocks = chain.Blocks(new_tokens);
  const size_t shared = At(catalog, old_blocks[0]);
  const size_t last = At(catalog, old_blocks[2]);
  const size_t middle = At(catalog, old_blocks[1]);
  const size_t newest = At(catalog, new_blocks[1]);
  const int64_t bytes = catalog.blocks()[shared].bytes();
  EXPECT_THAT(Reasons(catalog, {.most_bytes = 4 * bytes}), IsEmpty());
  EXPECT_THAT(
      Reasons(catalog, {.most_bytes = 2 * bytes}),
      ElementsAre(std::pair(last, GarbageReason::kRoom), std::pair(middle, GarbageReason::kRoom)));
  EXPECT_THAT(
      Reasons(catalog, {.most_bytes = 0}),
      ElementsAre(std::pair(last, GarbageReason::kRoom), std::pair(middle, GarbageReason::kRoom),
                  std::pair(newest, GarbageReason::kRoom),
                  std::pair(shared, GarbageReason::kRoom)));
  const uint64_t since = catalog.blocks()[newest].last_use;
  EXPECT_THAT(Reasons(catalog, {.unused_since = since}),
              ElementsAre(std::pair(last, GarbageReason::kUnused),
                          std::pair(middle, GarbageReason::kUnused)))
      << "what a newer block stands on stays";
  EXPECT_EQ(Reasons(catalog, {.unused_since = since + 1}).size(), 4U);
}

TEST(Catalog, LastUsesAreTimes) {
  MemoryTier tier(TierLimits{});
  const auto now = [] {
    return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(
                                     std::chrono::system_clock::now().time_since_epoch())
                                     .count());
  };
  const uint64_t before = now();
  ASSERT_TRUE(tier.Put(KvChain().Records(CountedTokens(kBlock))).ok());
  const uint64_t after = now();
  const Catalog catalog = MustRead(tier);
  EXPECT_GE(catalog.blocks()[0].last_use, before);
  EXPECT_LE(catalog.blocks()[0].last_use, after + 3) << "one for each record";
}

}  // namespace
}  // namespace tandem::kv_store
