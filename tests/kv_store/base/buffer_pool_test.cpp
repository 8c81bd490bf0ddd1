#include "kv_store/base/buffer_pool.h"

#include <gtest/gtest.h>

#include <optional>

namespace tandem::kv_store {
namespace {

TEST(BufferPool, GivesMemoryAgainOnceNobodyHoldsIt) {
  BufferPool pool(1000);
  EXPECT_TRUE(pool.Take().empty());
  std::vector<std::byte> first(600, std::byte{1});
  const std::byte* memory = first.data();
  SharedBytes shared = pool.Share(std::move(first));
  SharedBytes other = shared;
  shared = {};
  EXPECT_TRUE(pool.Take().empty());
  EXPECT_EQ(other, SharedBytes(std::vector<std::byte>(600, std::byte{1})));
  other = {};
  EXPECT_EQ(pool.Take().data(), memory);
  EXPECT_TRUE(pool.Take().empty());
}

TEST(BufferPool, KeepsNoMoreThanItMay) {
  BufferPool pool(1000);
  for (int i = 0; i < 3; ++i) {
    SharedBytes one = pool.Share(std::vector<std::byte>(400));
    const SharedBytes two = pool.Share(std::vector<std::byte>(400));
    const SharedBytes three = pool.Share(std::vector<std::byte>(400));
  }
  EXPECT_EQ(pool.Take().size(), 400U);
  EXPECT_EQ(pool.Take().size(), 400U);
  EXPECT_TRUE(pool.Take().empty());
}

TEST(BufferPool, BytesMayOutliveIt) {
  std::optional<BufferPool> pool(1000);
  const SharedBytes bytes = pool->Share(std::vector<std::byte>(10, std::byte{7}));
  pool.reset();
  EXPECT_EQ(bytes.size(), 10U);
  EXPECT_EQ(*bytes.begin(), std::byte{7});
}

}  // namespace
}  // namespace tandem::kv_store
