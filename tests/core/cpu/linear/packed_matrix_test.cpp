#include "core/cpu/linear/packed_matrix.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <string_view>

#include "tests/core/cpu/linear/weight_samples.h"

namespace tandem::core {
namespace {

absl::Status PackError(const MatrixSource& source, Range rows, Range columns) {
  Arena arena;
  ThreadPool pool(1);
  const absl::StatusOr<PackedMatrix> packed =
      PackedMatrix::Pack(source, rows, columns, ActivationMode::kQ8, arena, pool);
  EXPECT_FALSE(packed.ok());
  return packed.status();
}

TEST(PackedMatrix, RefusesWhatTheSourceDoesNotHold) {
  const WeightSample w = MakeWeights(DType::kQ4_0, 8, 128, 1);
  constexpr int64_t kHuge = std::numeric_limits<int64_t>::max();
  for (const Range rows : {Range{0, 9}, Range{8, 1}, Range{-1, 2}, Range{0, -1}, Range{2, kHuge},
                           Range{kHuge, kHuge}}) {
    const absl::Status status = PackError(w.source("blk.0.ffn_up.weight"), rows, {0, 128});
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(Message(status), ::testing::HasSubstr("blk.0.ffn_up.weight"));
    EXPECT_THAT(Message(status), ::testing::HasSubstr("8 x 128"));
  }
  for (const Range columns : {Range{0, 160}, Range{128, 32}, Range{-32, 32}, Range{32, kHuge}}) {
    EXPECT_EQ(PackError(w.source(), {0, 8}, columns).code(), absl::StatusCode::kInvalidArgument);
  }
  for (const Range columns : {Range{16, 32}, Range{0, 48}, Range{1, 127}}) {
    EXPECT_THAT(Message(PackError(w.source(), {0, 8}, columns)),
                ::testing::HasSubstr("multiples of 32"));
  }
}

TEST(PackedMatrix, RefusesShapesThatAreNone) {
  MatrixSource source{"output.weight", DType::kQ6_K, nullptr, 4, 288};
  EXPECT_THAT(Message(PackError(source, {0, 4}, {0, 288})), ::testing::HasSubstr("output.weight"));
  source = {"output.weight", DType::kF32, nullptr, std::numeric_limits<int64_t>::max() / 2, 1024};
  EXPECT_THAT(Message(PackError(source, {0, source.rows}, {0, 1024})),
              ::testing::HasSubstr("output.weight"));
  source.rows = int64_t{1} << 45;  // addressable, but not there
  const absl::Status status = PackError(source, {0, source.rows}, {0, 1024});
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Message(status), ::testing::HasSubstr("output.weight"));
}

TEST(PackedMatrix, TakesNoMoreMemoryThanItsFormatSays) {
  Arena arena;
  ThreadPool pool(2);
  for (const DType dtype : kAllDTypes) {
    const WeightSample w = MakeWeights(dtype, 33, 256, 2);
    const absl::StatusOr<PackedMatrix> packed =
        PackedMatrix::Pack(w.source(), {0, 33}, {0, 256}, ActivationMode::kQ8, arena, pool);
    ASSERT_TRUE(packed.ok()) << packed.status();
    EXPECT_EQ(packed->dtype(), dtype);
    EXPECT_EQ(packed->tiles(), 3);
    // 3 tiles of 8 blocks; 3.7 % more than the file at most.
    EXPECT_LE(packed->bytes() * 1000, 48 * RowBytes(dtype, 256) * 1037) << DTypeName(dtype);
    // Rows past the end are zeros: they multiply to nothing.
    if (dtype == DType::kF32) {
      for (int64_t column = 0; column < 256; ++column) {
        float lanes[kTileRows];
        std::memcpy(lanes, packed->tile(2) + column * 64, sizeof(lanes));
        EXPECT_EQ(lanes[0], w.values[static_cast<size_t>(32 * 256 + column)]);
        for (int row = 1; row < kTileRows; ++row) EXPECT_EQ(lanes[row], 0.0F);
      }
    }
  }
}

TEST(PackedMatrix, IsTheSameForAnyNumberOfThreads) {
  for (const DType dtype : kAllDTypes) {
    const WeightSample w = MakeWeights(dtype, 100, 512, 3);
    Arena arena;
    ThreadPool one(1);
    ThreadPool three(3);
    const auto a =
        PackedMatrix::Pack(w.source(), {3, 90}, {64, 320}, ActivationMode::kQ8, arena, one);
    const auto b =
        PackedMatrix::Pack(w.source(), {3, 90}, {64, 320}, ActivationMode::kQ8, arena, three);
    ASSERT_TRUE(a.ok() && b.ok());
    ASSERT_EQ(a->bytes(), b->bytes());
    EXPECT_EQ(std::memcmp(a->tile(0), b->tile(0), static_cast<size_t>(a->bytes())), 0);
  }
}

/// Memory that an earlier process has packed.
class FilledMemory final : public PackedMemory {
 public:
  explicit FilledMemory(std::byte* data) : data_(data) {}
  absl::StatusOr<Place> Take(std::string_view name, int64_t bytes) override {
    name_ = name;
    bytes_ = bytes;
    return Place{.data = data_, .filled = true};
  }
  const std::string& name() const { return name_; }
  int64_t bytes() const { return bytes_; }

 private:
  std::byte* const data_;
  std::string name_;
  int64_t bytes_ = 0;
};

TEST(PackedMatrix, ReadsNothingOfWhatIsPackedAlready) {
  ThreadPool pool(2);
  for (const DType dtype : kAllDTypes) {
    const WeightSample w = MakeWeights(dtype, 40, 512, 5);
    Arena arena;
    const auto packed =
        PackedMatrix::Pack(w.source(), {3, 30}, {64, 320}, ActivationMode::kQ8, arena, pool);
    ASSERT_TRUE(packed.ok()) << packed.status();
    MatrixSource source = w.source("blk.0.ffn_up.weight");
    source.data = nullptr;
    FilledMemory memory(const_cast<std::byte*>(packed->tile(0)));
    const auto again =
        PackedMatrix::Pack(source, {3, 30}, {64, 320}, ActivationMode::kQ8, memory, pool);
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(memory.name(), "blk.0.ffn_up.weight");
    EXPECT_EQ(memory.bytes(), packed->bytes());
    EXPECT_EQ(again->tile(1), packed->tile(1));
    EXPECT_EQ(again->dtype(), packed->dtype());
    EXPECT_EQ(again->first_block(), packed->first_block());
  }
}

/// FNV-1a.
uint64_t SumOf(const PackedMatrix& packed, uint64_t sum) {
  for (int64_t i = 0; i < packed.bytes(); ++i) {
    sum = (sum ^ static_cast<uint64_t>(packed.tile(0)[i])) * 0x100000001B3;
  }
  return sum;
}

TEST(PackedMatrix, MakesTheBytesOfItsVersion) {
  ThreadPool pool(1);
  uint64_t sum = 0xCBF29CE484222325;
  for (const DType dtype : kAllDTypes) {
    for (const ActivationMode mode : {ActivationMode::kQ8, ActivationMode::kF32}) {
      const WeightSample w = MakeWeights(dtype, 37, 512, 6);
      Arena arena;
      const auto packed = PackedMatrix::Pack(w.source(), {1, 36}, {96, 416}, mode, arena, pool);
      ASSERT_TRUE(packed.ok()) << packed.status();
      sum = SumOf(*packed, sum);
    }
  }
  // Whoever changes the bytes changes the version, too: packed weights outlive the program.
  EXPECT_EQ(kPackingVersion, 1);
  EXPECT_EQ(sum, 12093882123187702736U);
}

TEST(PackedMatrix, NeverReadsBeyondTheSource) {
  // Exactly as large as the source: an address sanitizer sees a byte too many.
  for (const DType dtype : kAllDTypes) {
    const WeightSample w = MakeWeights(dtype, 5, 256, 4);
    const auto exact = std::make_unique<std::byte[]>(w.bytes.size());
    std::memcpy(exact.get(), w.bytes.data(), w.bytes.size());
    MatrixSource source = w.source();
    source.data = exact.get();
    Arena arena;
    ThreadPool pool(1);
    for (const ActivationMode mode : {ActivationMode::kQ8, ActivationMode::kF32}) {
      EXPECT_TRUE(PackedMatrix::Pack(source, {0, 5}, {0, 256}, mode, arena, pool).ok());
      EXPECT_TRUE(PackedMatrix::Pack(source, {4, 1}, {224, 32}, mode, arena, pool).ok());
    }
  }
}

}  // namespace
}  // namespace tandem::core
