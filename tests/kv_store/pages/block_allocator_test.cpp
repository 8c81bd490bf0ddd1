#include "kv_store/pages/block_allocator.h"

#include <gtest/gtest.h>

#include <map>
#include <vector>

#include "tests/support/random.h"

namespace tandem::kv_store {

TEST(BlockAllocator, AgreesWithAMapOverRandomOperations) {
  testing::SplitMix random(1);
  constexpr int64_t kBlocks = 97;
  BlockAllocator allocator(kBlocks);
  std::map<core::BlockId, int32_t> model;  // block -> owners
  const auto any_owned = [&] {
    auto entry = model.begin();
    std::advance(entry, static_cast<int64_t>(random.Below(model.size())));
    return entry->first;
  };
  for (int i = 0; i < 100'000; ++i) {
    switch (random.Below(5)) {
      case 0:
      case 1: {
        const auto block = allocator.Allocate();
        ASSERT_EQ(block.has_value(), model.size() < kBlocks);
        if (!block) break;
        ASSERT_TRUE(*block >= 0 && *block < kBlocks);
        ASSERT_TRUE(model.emplace(*block, 1).second)
            << "block " << *block << " was given out twice";
        break;
      }
      case 2: {
        if (model.empty()) break;
        const core::BlockId block = any_owned();
        allocator.Share(block);
        ++model[block];
        break;
      }
      default: {
        if (model.empty()) break;
        const core::BlockId block = any_owned();
        const bool last = --model[block] == 0;
        ASSERT_EQ(allocator.Release(block), last);
        if (last) model.erase(block);
        break;
      }
    }
    ASSERT_EQ(allocator.used(), static_cast<int64_t>(model.size()));
    ASSERT_EQ(allocator.free(), kBlocks - allocator.used());
  }
  for (const auto& [block, owners] : model) EXPECT_EQ(allocator.owners(block), owners);
}

TEST(BlockAllocator, EmptyPoolGivesNothing) {
  BlockAllocator allocator(0);
  EXPECT_EQ(allocator.Allocate(), std::nullopt);
}

TEST(BlockAllocatorDeathTest, SecondReleaseEndsTheProgram) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  BlockAllocator allocator(4);
  const core::BlockId block = allocator.Allocate().value();
  allocator.Release(block);
  EXPECT_DEATH(allocator.Release(block), "a free block was released again");
  EXPECT_DEATH(allocator.Share(block), "a free block was shared");
  EXPECT_DEATH(allocator.Release(4), "outside the pool");
  EXPECT_DEATH(allocator.Release(core::kNoBlock), "outside the pool");
}

}  // namespace tandem::kv_store
