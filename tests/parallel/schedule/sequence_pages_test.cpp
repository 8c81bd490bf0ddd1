#include "parallel/schedule/sequence_pages.h"

#include <gtest/gtest.h>

#include <vector>

#include "kv_store/pages/pool_size.h"

namespace tandem::parallel {
namespace {

TEST(SequencePages, SparseAttentionHoldsAFewBlocksHoweverLongTheSequence) {
  const std::vector<core::KvLayerGroup> groups = {
      {.window = 100, .layers = {0}, .global = 70},
      {.window = 1, .layers = {1}},
      {.window = 33, .layers = {2}, .global = 100, .global_reach = 300}};
  const std::vector<int64_t> most = {2 + 1 + 2, 0 + 1 + 0, 1 + 1 + 2};
  constexpr int32_t kTokens = 5000;
  for (const int32_t step : {1, 50}) {
    // Pools that hold nothing besides: what is given back must be there again.
    std::vector<int64_t> pool;
    for (const int64_t count : most) pool.push_back(count + (step == 1 ? 0 : 2));
    kv_store::PrefixIndex index(groups, pool);
    std::vector<int32_t> tokens(kTokens);
    for (int32_t t = 0; t < kTokens; ++t) tokens[static_cast<size_t>(t)] = t % 1000;
    SequencePages pages(index, groups, 0, std::span(tokens).first(1), 1);
    std::vector<int64_t> held(groups.size(), 0);
    for (int32_t p = 0; p < kTokens; p += step) {
      ASSERT_TRUE(pages.Grow(p, p + step)) << p;
      for (size_t g = 0; g < groups.size(); ++g) {
        if (step == 1) {
          EXPECT_LE(pages.held(g), most[g]) << "position " << p;
        }
        held[g] = std::max(held[g], pages.held(g));
      }
      pages.AddFull(tokens, p + step, nullptr);
    }
    if (step == 1) {
      EXPECT_EQ(held, most);
    }
    pages.Release();
    for (size_t g = 0; g < groups.size(); ++g) EXPECT_EQ(index.used(g), 0);
  }
}

TEST(SequencePages, SparseAttentionFindsABeginningWhoseMiddleIsGone) {
  const std::vector<core::KvLayerGroup> groups = {{.window = 64, .layers = {0}, .global = 4}};
  std::vector<int32_t> tokens(1000);
  for (size_t t = 0; t < tokens.size(); ++t) tokens[t] = static_cast<int32_t>(t);
  kv_store::PrefixIndex index(groups, {4});
  {
    SequencePages first(index, groups, 0, tokens, 1);
    for (int32_t p = 0; p < 640; ++p) {
      ASSERT_TRUE(first.Grow(p, p + 1));
      first.AddFull(tokens, p + 1, nullptr);
    }
    first.Release();
  }
  EXPECT_EQ(index.Known(0, tokens, 999).tokens, 640);
  SequencePages second(index, groups, 0, tokens, 999);
  EXPECT_EQ(second.taken(), 640);
  ASSERT_TRUE(second.Grow(640, 641));
  const auto changes = second.TakeChanges()[0];
  ASSERT_EQ(changes.size(), 11U);
  for (const BlockChange& change : changes) {
    const bool seen = change.index == 0 || change.index >= 9;
    EXPECT_EQ(change.block != core::kNoBlock, seen) << change.index;
  }
  second.Release();
  // The first block is the last to go: without it the others are of no use.
  ASSERT_TRUE(index.Allocate(0));
  ASSERT_TRUE(index.Allocate(0));
  EXPECT_LE(index.Known(0, tokens, 999).tokens, 640);
}

}  // namespace
}  // namespace tandem::parallel
