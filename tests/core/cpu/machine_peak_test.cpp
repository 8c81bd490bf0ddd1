#include "core/cpu/machine_peak.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "tests/support/isas.h"

namespace tandem::core {
namespace {

TEST(SumBytes, ReadsAllOfThem) {
  std::vector<int64_t> numbers(1024);
  int64_t expected = 0;
  for (size_t i = 0; i < numbers.size(); ++i) {
    numbers[i] = static_cast<int64_t>(i * i) - 1000;
    expected += numbers[i];
  }
  const auto* bytes = reinterpret_cast<const std::byte*>(numbers.data());
  EXPECT_EQ(SumBytes(bytes, static_cast<int64_t>(numbers.size() * sizeof(int64_t))), expected);
  EXPECT_EQ(SumBytes(bytes, 0), 0);
}

TEST(MultiplyAddInt8, CountsByItsRounds) {
  for (const Isa isa : test::SupportedIsas()) {
    const int64_t one = MultiplyAddInt8(isa, 1);
    EXPECT_EQ(one, isa == Isa::kAvx512 ? 16 * 64 : 7 * 32) << IsaName(isa);
    EXPECT_EQ(MultiplyAddInt8(isa, 1000), 1000 * one) << IsaName(isa);
  }
}

TEST(Peaks, AreMeasuredOverAllThreads) {
  ThreadPool pool(2);
  const auto memory = ReadPeak::Create((int64_t{3} << 20) + 1, pool);
  ASSERT_TRUE(memory.ok()) << memory.status();
  EXPECT_EQ(memory->bytes(), int64_t{4} << 20);  // whole tasks
  EXPECT_GT(memory->Measure(std::chrono::milliseconds(1), pool), 0);
  for (const Isa isa : test::SupportedIsas()) {
    EXPECT_GT(MeasureInt8Peak(isa, std::chrono::milliseconds(1), pool), 0) << IsaName(isa);
  }
}

TEST(Peaks, RefuseMemoryThatIsNotThere) {
  ThreadPool pool(1);
  EXPECT_EQ(ReadPeak::Create(int64_t{1} << 60, pool).status().code(),
            absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace tandem::core
