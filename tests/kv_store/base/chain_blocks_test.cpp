#include "kv_store/base/chain_blocks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>

namespace tandem::kv_store {
namespace {

TEST(BlocksOfChain, AreAllFullBlocksAndTails) {
  std::vector<int32_t> tokens(150);
  std::iota(tokens.begin(), tokens.end(), 0);
  const std::span<const int32_t> all(tokens);
  const std::vector<BlockHash> blocks = BlocksOfChain(5, tokens, 0);
  EXPECT_EQ(blocks.size(), 150U);
  EXPECT_EQ(std::set(blocks.begin(), blocks.end()).size(), 150U);
  const BlockHash first = ChainHash(TenantHash(5), all.first(64));
  const BlockHash second = ChainHash(first, all.subspan(64, 64));
  EXPECT_EQ(blocks[63], first);
  EXPECT_EQ(blocks[127], second);
  EXPECT_EQ(blocks[149], ChainHash(second, all.subspan(128)));
  EXPECT_EQ(blocks[9], ChainHash(TenantHash(5), all.first(10)));
  EXPECT_TRUE(BlocksOfChain(5, {}, 0).empty());
}

TEST(BlocksOfChain, FullBlocksAreThoseOfAChainFromAnywhere) {
  std::vector<int32_t> tokens(64 * 3 + 63, 7);
  const std::vector<BlockHash> all = BlocksOfChain(5, tokens, 0);
  const std::vector<BlockHash> full = FullBlocksOf(TenantHash(5), tokens);
  EXPECT_EQ(full, (std::vector{all[63], all[127], all[191]}));
  EXPECT_EQ(FullBlocksOf(full[0], std::span(tokens).subspan(64)), (std::vector{full[1], full[2]}));
  EXPECT_TRUE(FullBlocksOf(full[0], std::span(tokens).first(63)).empty());
}

TEST(BlocksOfChain, LeavesOutWhatOthersShare) {
  std::vector<int32_t> tokens(130, 3);
  const std::vector<BlockHash> all = BlocksOfChain(0, tokens, 0);
  const std::vector<BlockHash> own = BlocksOfChain(0, tokens, 70);
  ASSERT_EQ(own.size(), 60U);
  EXPECT_TRUE(std::equal(own.begin(), own.end(), all.begin() + 70));
  EXPECT_TRUE(BlocksOfChain(0, tokens, 130).empty());
  EXPECT_NE(BlocksOfChain(1, tokens, 0), all) << "tenants are salted apart";
}

}  // namespace
}  // namespace tandem::kv_store
