#include "kv_store/pages/page_pool.h"

#include <gtest/gtest.h>

#include <cstring>
#include <set>

#include "core/model/host_memory.h"
#include "kv_store/pages/pool_size.h"

namespace tandem::kv_store {
namespace {

core::HostMemory host;

core::KvGeometry Geometry() {
  return {.groups = {{.window = 0, .layers = {1, 3}}, {.window = 100, .layers = {0, 2, 4}}},
          .layers = 5,
          .kv_heads = 2,
          .head_dim = 8,
          .dtype = core::KvDtype::kF16};
}

TEST(PagePool, PagesAreDisjointAlignedAndZeroed) {
  const std::vector<int64_t> blocks = {3, 5};
  const auto pool = PagePool::Create(host, Geometry(), blocks);
  ASSERT_TRUE(pool.ok()) << pool.status();
  const core::KvView& view = pool->view();
  const int64_t page_bytes = view.geometry().PageBytes();
  EXPECT_EQ(pool->bytes(), (3 * 2 + 5 * 3) * 2 * page_bytes);
  std::set<const std::byte*> starts;
  for (int layer = 0; layer < 5; ++layer) {
    const int group = view.group_of(layer);
    EXPECT_EQ(group, layer % 2 == 1 ? 0 : 1);
    for (core::BlockId block = 0; block < blocks[static_cast<size_t>(group)]; ++block) {
      for (int head = 0; head < 2; ++head) {
        const core::KvPage page = view.Page(layer, head, block);
        EXPECT_EQ(page.values - page.keys, page_bytes / 2);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(page.keys) % 64, 0U);
        for (int64_t i = 0; i < page_bytes; ++i) ASSERT_EQ(page.keys[i], std::byte{0});
        std::memset(page.keys, 1, static_cast<size_t>(page_bytes));  // a second visit would see it
        starts.insert(page.keys);
      }
    }
  }
  EXPECT_EQ(starts.size(), (3U * 2 + 5 * 3) * 2);
}

TEST(PagePool, CopiesABlockInAllLayersOfItsGroupAndNothingElse) {
  const std::vector<int64_t> blocks = {3, 5};
  const auto pool = PagePool::Create(host, Geometry(), blocks);
  ASSERT_TRUE(pool.ok()) << pool.status();
  const core::KvView& view = pool->view();
  const auto page_bytes = static_cast<size_t>(view.geometry().PageBytes());
  const auto page = [&](int layer, int head, core::BlockId block) {
    return view.Page(layer, head, block).keys;
  };
  const auto mark = [](int layer, int head, core::BlockId block) {
    return 1 + layer * 20 + head * 10 + block;
  };
  const auto for_all = [&](const auto& visit) {
    for (int layer = 0; layer < 5; ++layer) {
      for (int head = 0; head < 2; ++head) {
        const auto count = blocks[static_cast<size_t>(view.group_of(layer))];
        for (core::BlockId block = 0; block < count; ++block) visit(layer, head, block);
      }
    }
  };
  for_all([&](int layer, int head, core::BlockId block) {
    std::memset(page(layer, head, block), mark(layer, head, block), page_bytes);
  });
  ASSERT_TRUE(pool->CopyBlock(1, 1, 4).ok());
  for_all([&](int layer, int head, core::BlockId block) {
    const bool copied = view.group_of(layer) == 1 && block == 4;
    const std::vector<std::byte> expected(
        page_bytes, static_cast<std::byte>(mark(layer, head, copied ? 1 : block)));
    EXPECT_EQ(std::memcmp(page(layer, head, block), expected.data(), page_bytes), 0)
        << "layer " << layer << ", head " << head << ", block " << block;
  });
}

TEST(PagePool, RefusesContradictions) {
  EXPECT_EQ(PagePool::Create(host, Geometry(), {3}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(PagePool::Create(host, Geometry(), {3, 0}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(PagePool::Create(host, Geometry(), {3, int64_t{1} << 40}).status().code(),
            absl::StatusCode::kInvalidArgument);
  core::KvGeometry twice = Geometry();
  twice.groups[1].layers = {0, 1, 2};
  EXPECT_EQ(PagePool::Create(host, twice, {3, 3}).status().code(),
            absl::StatusCode::kInvalidArgument);
  core::KvGeometry missing = Geometry();
  missing.groups[1].layers = {0, 2};
  EXPECT_EQ(PagePool::Create(host, missing, {3, 3}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(PoolSize, WindowsHoldBoundedBlocks) {
  const core::KvLayerGroup full{.window = 0, .layers = {0}};
  const core::KvLayerGroup window{.window = 100, .layers = {0}};
  EXPECT_EQ(MostBlocksHeld(full, 1, 512), 1);
  EXPECT_EQ(MostBlocksHeld(full, 65, 512), 2);
  EXPECT_EQ(MostBlocksHeld(window, 64, 1), 1);
  // One token at a time, 100 positions touch at most 3 blocks, however they lie.
  EXPECT_EQ(MostBlocksHeld(window, 10'000, 1), 3);
  for (int step = 1; step < 300; ++step) {
    // The slow way: every start. What the step before has written is held, too.
    int64_t most = 0;
    for (int64_t start = 0; start < 640; ++start) {
      const int64_t first = std::max<int64_t>(0, start - std::max(99, step)) / core::kPageTokens;
      most = std::max(most, (start + step - 1) / core::kPageTokens - first + 1);
    }
    EXPECT_EQ(MostBlocksHeld(window, 100'000, step), most) << "step of " << step;
  }
}

TEST(PoolSize, SparseAttentionHoldsBoundedBlocks) {
  for (const int window : {1, 63, 64, 65, 100, 500}) {
    for (const int global : {0, 1, 64, 65, 300}) {
      const core::KvLayerGroup group{.window = window, .layers = {0}, .global = global};
      EXPECT_LE(MostBlocksHeld(group, 1'000'000, 1),
                (std::max(window - 1, 1) + 63) / 64 + 1 + (global + 63) / 64);
      for (const int step : {1, 64, 100, 512}) {
        int64_t most = 0;
        for (int64_t start = 0; start < 2000; start += 7) {
          int64_t held = 0;
          for (int64_t block = 0; block < BlocksFor(start + step); ++block) {
            const bool just_written = block >= (start - step) / core::kPageTokens;
            held += just_written || SeesBlock(group, start, block) ? 1 : 0;
          }
          most = std::max(most, held);
        }
        EXPECT_LE(most, MostBlocksHeld(group, 1'000'000, step)) << window << ", " << global;
        EXPECT_LE(MostBlocksHeld(group, 1'000'000, step) - most, 1) << window << ", " << global;
      }
    }
  }
}

TEST(PoolSize, SparseAttentionSeesABlockAsLongAsAnyOfItsKeys) {
  for (const core::KvLayerGroup& group :
       {core::KvLayerGroup{.window = 50, .layers = {0}, .global = 70},
        core::KvLayerGroup{.window = 1, .layers = {0}, .global = 135, .global_reach = 200},
        core::KvLayerGroup{.window = 30, .layers = {0}, .global = 64, .global_reach = 130}}) {
    for (int64_t position = 0; position < 600; ++position) {
      for (int64_t block = 0; block <= position / 64; ++block) {
        bool sees = false;
        for (int64_t key = block * 64; key < block * 64 + 64; ++key) {
          const bool global = key < group.global &&
                              (group.global_reach == 0 || key > position - group.global_reach);
          sees = sees || key > position - group.window || global;
        }
        EXPECT_EQ(SeesBlock(group, position, block), sees) << position << ", block " << block;
      }
    }
  }
}

TEST(PoolSize, OneSequenceFitsBeforeStatesAreKept) {
  for (const int interval : {64, 256, 2048}) {
    for (const int segment : {64, 256, 1024}) {
      core::KvGeometry geometry = Geometry();
      geometry.groups = {
          {.layers = {0, 1}, .segment = segment},
          {.layers = {0, 1}, .segment = segment, .states = true, .state_interval = interval}};
      const PoolWish wish{.sequences = 16, .sequence_tokens = 8192, .step_tokens = 512};
      // What the longest sequence takes, and some more.
      int64_t bytes = 0;
      for (size_t g = 0; g < 2; ++g) {
        bytes += MostBlocksHeld(geometry.groups[g], 8192, 512) * geometry.BlockBytes(g);
      }
      const auto blocks = BlocksForBytes(geometry, wish, bytes);
      EXPECT_EQ(LongestSequence(geometry.groups, blocks, 512, 8192), 8192)
          << segment << ", " << interval;
      const auto fewer = BlocksForBytes(geometry, wish, bytes * 3 / 4);
      EXPECT_GT(LongestSequence(geometry.groups, fewer, 512, 8192), segment / 2)
          << segment << ", " << interval;
    }
  }
}

TEST(PoolSize, BytesAreShared) {
  const core::KvGeometry geometry = Geometry();
  const PoolWish wish{.sequences = 4, .sequence_tokens = 640, .step_tokens = 64};
  const std::vector<int64_t> all = BlocksForWish(geometry, wish);
  EXPECT_EQ(all, (std::vector<int64_t>{40, 4 * MostBlocksHeld(geometry.groups[1], 640, 64)}));
  int64_t bytes = 0;
  for (size_t g = 0; g < 2; ++g) bytes += all[g] * geometry.BlockBytes(g);
  const auto half = BlocksForBytes(geometry, wish, bytes / 2);
  int64_t taken = 0;
  for (size_t g = 0; g < 2; ++g) {
    EXPECT_GE(half[g], MostBlocksHeld(geometry.groups[g], 640, 64)) << "one sequence";
    taken += half[g] * geometry.BlockBytes(g);
  }
  EXPECT_LE(taken, bytes / 2);
  EXPECT_GT(taken, bytes * 2 / 5);
  EXPECT_EQ(BlocksForBytes(geometry, wish, 1), (std::vector<int64_t>{1, 1}));
}

TEST(PoolSize, LongestSequenceIsTheLastThatFits) {
  const std::vector<core::KvLayerGroup> groups = Geometry().groups;
  EXPECT_EQ(LongestSequence(groups, {10, 100}, 64, 100'000), 640);
  EXPECT_EQ(LongestSequence(groups, {10, 100}, 64, 500), 500);
  EXPECT_EQ(LongestSequence(groups, {10, 2}, 64, 500), 128);
  EXPECT_GT(host.AvailableBytes().value(), 0);
}

}  // namespace
}  // namespace tandem::kv_store
