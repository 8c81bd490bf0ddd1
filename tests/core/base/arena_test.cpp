#include "core/base/arena.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

namespace tandem::core {
namespace {

TEST(Arena, GivesZeroedAlignedMemoryThatDoesNotOverlap) {
  Arena arena;
  std::vector<std::pair<std::byte*, int64_t>> given;
  for (const int64_t bytes : {1, 63, 64, 65, 1000, 5 << 20, 40 << 20, 100, 15 << 20}) {
    const absl::StatusOr<std::byte*> data = arena.Allocate(bytes);
    ASSERT_TRUE(data.ok()) << data.status();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(*data) % 64, 0U);
    EXPECT_TRUE(std::all_of(*data, *data + bytes, [](std::byte b) { return b == std::byte{0}; }));
    std::memset(*data, 0xab, static_cast<size_t>(bytes));
    for (const auto& [other, size] : given) {
      EXPECT_TRUE(*data + bytes <= other || other + size <= *data);
    }
    given.emplace_back(*data, bytes);
  }
  EXPECT_GE(arena.bytes(), 60 << 20);
  EXPECT_LT(arena.bytes(), 61 << 20);
}

TEST(Arena, MovesItsMemory) {
  Arena arena;
  std::byte* data = *arena.Allocate(100);
  data[99] = std::byte{7};
  const Arena moved = std::move(arena);
  EXPECT_EQ(moved.bytes(), 128);
  EXPECT_EQ(data[99], std::byte{7});
}

TEST(Arena, SaysHowMuchWasAskedFor) {
  Arena arena;
  const absl::StatusOr<std::byte*> data = arena.Allocate(int64_t{1} << 60);
  EXPECT_EQ(data.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Message(data.status()), ::testing::HasSubstr("1099511627776 MiB"));
  EXPECT_FALSE(arena.Allocate(-1).ok());
  EXPECT_FALSE(arena.Allocate(std::numeric_limits<int64_t>::max()).ok());
  EXPECT_TRUE(arena.Allocate(0).ok());
}

}  // namespace
}  // namespace tandem::core
