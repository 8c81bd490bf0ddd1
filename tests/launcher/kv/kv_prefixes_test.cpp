#include "launcher/kv/kv_prefixes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "frontend/text/name_number.h"
#include "kv_store/tiers/encrypted_tier.h"
#include "kv_store/tiers/memory_tier.h"
#include "launcher/options/flag_parsers.h"
#include "tests/support/kv_chain.h"

namespace tandem::launcher {
namespace {

using testing::CountedTokens;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using testing::KvChain;

constexpr int32_t kBlock = core::kPageTokens;

frontend::Conversation Said(std::vector<int32_t> tokens) {
  frontend::Conversation conversation;
  conversation.history.tokens = std::move(tokens);
  return conversation;
}

std::vector<KvPrefix> Find(kv_store::ListableTier& tier, const kv_store::StoredNames& names,
                           const NamedConversations& conversations) {
  const auto catalog = kv_store::Catalog::Read(tier, names, {});
  EXPECT_TRUE(catalog.ok()) << catalog.status();
  return FindPrefixes(*catalog, names, conversations);
}

TEST(KvPrefixes, AConversationIsOneWithTheEndsOfItsTurns) {
  const kv_store::EncryptedBox box(kv_store::StateKey{1});
  for (const bool encrypted : {false, true}) {
    auto memory = std::make_unique<kv_store::MemoryTier>(kv_store::TierLimits{});
    kv_store::MemoryTier& stored = *memory;
    const kv_store::StoredNames names(encrypted ? &box : nullptr);
    kv_store::EncryptedTier hidden(std::move(memory), box);
    kv_store::Tier& tier = encrypted ? static_cast<kv_store::Tier&>(hidden) : stored;
    KvChain chain;
    chain.tenant = frontend::NumberOf("t");
    const std::vector<int32_t> first = CountedTokens(kBlock + 10);
    const std::vector<int32_t> second = CountedTokens(2 * kBlock + 5);
    ASSERT_TRUE(tier.Put(chain.Records(first, true)).ok());
    ASSERT_TRUE(tier.Put(chain.Records(second, true)).ok());
    const NamedConversations conversations = {{{"t", "c"}, Said(CountedTokens(2 * kBlock + 9))},
                                              {{"t", "none"}, Said(CountedTokens(9, 500))}};
    const auto prefixes = Find(stored, names, conversations);
    ASSERT_EQ(prefixes.size(), 1U);
    EXPECT_THAT(prefixes[0].conversations, ElementsAre("c"));
    EXPECT_EQ(prefixes[0].tenant, chain.tenant);
    EXPECT_EQ(prefixes[0].tokens, 2 * kBlock + 5);
    EXPECT_EQ(prefixes[0].usable_tokens, 2 * kBlock + 5);
    EXPECT_TRUE(prefixes[0].complete);
    EXPECT_EQ(prefixes[0].chain.size(), 3U);
    EXPECT_EQ(prefixes[0].blocks.size(), 4U) << "with the end of the first turn";
    EXPECT_EQ(prefixes[0].records, 12);
    const auto unnamed = Find(stored, names, {});
    ASSERT_EQ(unnamed.size(), 2U);
    EXPECT_THAT(unnamed[0].conversations, IsEmpty());
    EXPECT_EQ(TenantNames(conversations).at(chain.tenant), "t");
  }
}

TEST(KvPrefixes, WhatIsMissingIsNotOfUse) {
  kv_store::MemoryTier tier(kv_store::TierLimits{});
  const KvChain chain;
  auto records = chain.Records(CountedTokens(4 * kBlock));
  records.erase(records.begin() + 2 * 3);  // of the third block
  ASSERT_TRUE(tier.Put(records).ok());
  const auto prefixes = Find(tier, kv_store::StoredNames(), {});
  ASSERT_EQ(prefixes.size(), 1U);
  EXPECT_EQ(prefixes[0].tokens, 4 * kBlock);
  EXPECT_EQ(prefixes[0].usable_tokens, 2 * kBlock);
  EXPECT_FALSE(prefixes[0].complete);
}

/// Of a text of six blocks in segments of two: the last segment's pages, and the state before it.
std::vector<kv_store::TierRecord> BehindAState(KvChain& chain, std::span<const int32_t> tokens) {
  chain.geometry.groups = {{.layers = {0, 1}, .segment = 128},
                           {.layers = {0, 1}, .segment = 128, .states = true}};
  const auto heads = static_cast<size_t>(chain.geometry.kv_heads);
  const std::vector<kv_store::TierRecord> all = chain.Records(tokens, /*tail=*/true);
  std::vector<kv_store::TierRecord> kept;
  for (size_t i = 0; i < all.size(); ++i) {
    const size_t block = i / (2 * heads);
    const bool is_state = i / heads % 2 == 1;
    if (is_state ? block == 3 : block > 3) kept.push_back(all[i]);
  }
  return kept;
}

TEST(KvPrefixes, AStateIsCompleteWithoutTheBlocksBeforeIt) {
  kv_store::MemoryTier tier(kv_store::TierLimits{});
  KvChain chain;
  chain.tenant = frontend::NumberOf("t");
  const std::vector<int32_t> tokens = CountedTokens(5 * kBlock + 9);
  ASSERT_TRUE(tier.Put(BehindAState(chain, tokens)).ok());
  const auto unnamed = Find(tier, kv_store::StoredNames(), {});
  ASSERT_EQ(unnamed.size(), 1U);
  EXPECT_FALSE(unnamed[0].positions_known);
  EXPECT_THAT(unnamed[0].first_tokens, ElementsAre(0, kBlock, 2 * kBlock));
  EXPECT_EQ(unnamed[0].tokens, 2 * kBlock + 9);
  EXPECT_EQ(unnamed[0].usable_tokens, 2 * kBlock + 9);
  EXPECT_TRUE(unnamed[0].complete);
  // A conversation's tokens tell where that is.
  const auto named = Find(tier, kv_store::StoredNames(), {{{"t", "c"}, Said(tokens)}});
  ASSERT_EQ(named.size(), 1U);
  EXPECT_TRUE(named[0].positions_known);
  EXPECT_THAT(named[0].first_tokens, ElementsAre(3 * kBlock, 4 * kBlock, 5 * kBlock));
  EXPECT_EQ(named[0].tokens, 5 * kBlock + 9);
  EXPECT_EQ(named[0].usable_tokens, 5 * kBlock + 9);
  EXPECT_TRUE(named[0].complete);
}

TEST(KvPrefixes, WhatAConversationSharesIsWhereItIs) {
  kv_store::MemoryTier tier(kv_store::TierLimits{});
  KvChain chain;
  chain.tenant = frontend::NumberOf("t");
  const std::vector<int32_t> tokens = CountedTokens(5 * kBlock + 9);
  std::vector<int32_t> other = CountedTokens(5 * kBlock + 9);
  for (size_t i = 4 * kBlock; i < other.size(); ++i) other[i] += 1000;
  ASSERT_TRUE(tier.Put(BehindAState(chain, tokens)).ok());
  ASSERT_TRUE(tier.Put(BehindAState(chain, other)).ok());
  const auto prefixes = Find(tier, kv_store::StoredNames(), {{{"t", "c"}, Said(tokens)}});
  ASSERT_EQ(prefixes.size(), 2U);
  for (const KvPrefix& prefix : prefixes) {
    EXPECT_TRUE(prefix.positions_known);
    EXPECT_THAT(prefix.first_tokens, ElementsAre(3 * kBlock, 4 * kBlock, 5 * kBlock));
    EXPECT_TRUE(prefix.complete);
  }
}

TEST(Ages, AreNumbersWithAUnit) {
  EXPECT_EQ(*ParseAge("0"), 0);
  EXPECT_EQ(*ParseAge("90s"), 90);
  EXPECT_EQ(*ParseAge("15m"), 900);
  EXPECT_EQ(*ParseAge("12h"), 12 * 3600);
  EXPECT_EQ(*ParseAge("30d"), 30 * 86400);
  EXPECT_EQ(*ParseAge("2w"), 14 * 86400);
  for (const char* text : {"", "d", "-1d", "1y", "1.5h", "1 d", "9999999999d"}) {
    EXPECT_FALSE(ParseAge(text).ok()) << text;
  }
}

}  // namespace
}  // namespace tandem::launcher
