#include "parallel/communicators/sum_packing.h"

#include <gtest/gtest.h>

#include <bit>
#include <limits>
#include <random>
#include <vector>

namespace tandem::parallel {
namespace {

constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
constexpr int64_t kLeast = std::numeric_limits<int64_t>::min();

std::vector<std::byte> Packed(const std::vector<int64_t>& sums) {
  std::vector<std::byte> packed(PackedRoom(sums.size()));
  packed.resize(PackSums(sums, packed.data()));
  packed.shrink_to_fit();  // so that a read past the end shows
  return packed;
}

/// Sums of up to `bits` bits and a sign.
std::vector<int64_t> Sums(size_t count, int bits, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<int64_t> sums(count);
  for (int64_t& sum : sums) sum = static_cast<int64_t>(random()) >> (63 - bits);
  return sums;
}

TEST(SumPacking, BringsEverySumBack) {
  for (int bits = 0; bits <= 63; ++bits) {
    for (const size_t count : {0, 1, 2, 7, 8, 9, 255, 256, 257, 1000}) {
      const std::vector<int64_t> sums = Sums(count, bits, count);
      std::vector<int64_t> back(count, 5);
      ASSERT_TRUE(AddPacked(Packed(sums), back).ok());
      for (size_t i = 0; i < count; ++i) ASSERT_EQ(back[i] - 5, sums[i]) << bits << " bits, " << i;
    }
  }
}

TEST(SumPacking, TakesTheFewestBytesForEachBlock) {
  // The border of every width, on both sides, beside zeros.
  for (int width = 1; width <= 8; ++width) {
    const int64_t most = kMost >> (64 - 8 * width);
    for (const int64_t edge : {most, -most - 1}) {
      std::vector<int64_t> sums(kPackedBlock + 10);
      sums[kPackedBlock + 3] = edge;
      const size_t expected = 2 + kPackedBlock + 10 * static_cast<size_t>(width);
      EXPECT_EQ(Packed(sums).size(), expected) << edge;
      std::vector<int64_t> back(sums.size());
      ASSERT_TRUE(AddPacked(Packed(sums), back).ok());
      EXPECT_EQ(back, sums);
    }
  }
}

TEST(SumPacking, RefusesWhatIsNotPacked) {
  const std::vector<int64_t> sums = Sums(300, 36, 1);
  const std::vector<std::byte> good = Packed(sums);
  std::vector<int64_t> back(sums.size());
  for (const size_t size : {size_t{0}, size_t{1}, size_t{2}, good.size() / 2, good.size() - 1}) {
    const std::vector<std::byte> cut(good.begin(), good.begin() + static_cast<int64_t>(size));
    EXPECT_FALSE(AddPacked(cut, back).ok()) << size;
  }
  std::vector<std::byte> longer = good;
  longer.push_back({});
  EXPECT_FALSE(AddPacked(longer, back).ok());
  for (const int width : {0, 4, 6, 9, 255}) {
    std::vector<std::byte> wrong = good;
    wrong[0] = static_cast<std::byte>(width);
    EXPECT_FALSE(AddPacked(wrong, back).ok()) << width;
  }
}

TEST(SumPacking, AnyBytesAreReadWithinTheirBounds) {
  std::mt19937 random(3);
  for (int i = 0; i < 20000; ++i) {
    std::vector<std::byte> bytes(random() % 64);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
    if (!bytes.empty()) bytes[0] = static_cast<std::byte>(random() % 10);
    std::vector<int64_t> sums(random() % 12, kMost);
    static_cast<void>(AddPacked(bytes, sums));
  }
}

TEST(SumPacking, TotalsRoundAsTheSumsDo) {
  std::vector<int64_t> sums = {0, 1, -1, 3, kMost, kLeast, kMost - 1, kLeast + 1, kMost / 2};
  for (int bits = 1; bits <= 63; ++bits) {
    for (const int64_t sum : Sums(101, bits, 7)) sums.push_back(sum);
    // Halfway between two floats, and beside it.
    if (bits > 26) {
      const int64_t half = (int64_t{1} << (bits - 1)) + (int64_t{1} << (bits - 25));
      for (const int64_t beside : {half - 1, half, half + 1, -half}) sums.push_back(beside);
    }
  }
  std::vector<float> totals(sums.size());
  RoundTotals(sums, totals.data());
  std::vector<int64_t> back(sums.size());
  ReadTotals(reinterpret_cast<const std::byte*>(totals.data()), back);
  for (size_t i = 0; i < sums.size(); ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(static_cast<float>(back[i])),
              std::bit_cast<uint32_t>(static_cast<float>(sums[i])))
        << sums[i];
  }
}

TEST(SumPacking, SmallCountsStayExact) {
  std::vector<int64_t> counts(1000);
  for (size_t i = 0; i < counts.size(); ++i) counts[i] = static_cast<int64_t>(i);
  std::vector<float> totals(counts.size());
  RoundTotals(counts, totals.data());
  std::vector<int64_t> back(counts.size());
  ReadTotals(reinterpret_cast<const std::byte*>(totals.data()), back);
  EXPECT_EQ(back, counts);
}

}  // namespace
}  // namespace tandem::parallel
