#include "parallel/links/link_times.h"

#include <gtest/gtest.h>

#include "parallel/links/paired_link.h"

namespace tandem::parallel {
namespace {

using std::chrono::nanoseconds;

LinkTimes Times(std::array<int, kTimedBytes.size()> microseconds) {
  LinkTimes times;
  for (size_t i = 0; i < times.size(); ++i) times[i] = nanoseconds(1000 * microseconds[i]);
  return times;
}

TEST(LinkTimes, TheFasterOneIsTakenUpToTheFirstSizeWhereItIsNot) {
  const LinkTimes level = Times({20, 20, 20, 20, 20, 20, 20});
  EXPECT_EQ(FasterUpTo(Times({5, 6, 8, 12, 20, 36, 68}), level), 128 << 10);
  EXPECT_EQ(FasterUpTo(Times({5, 6, 8, 12, 13, 14, 15}), level), 512 << 10);
  EXPECT_EQ(FasterUpTo(Times({21, 6, 8, 12, 13, 14, 15}), level), 0);
  EXPECT_EQ(FasterUpTo(Times({5, 21, 8, 12, 13, 14, 15}), level), 8 << 10);
}

TEST(LinkTimes, AreToldOfTheNextSize) {
  const LinkTimes times = Times({5, 6, 8, 12, 20, 36, 68});
  EXPECT_EQ(TimeText(times, 0), "8 KiB in 5.0 us");
  EXPECT_EQ(TimeText(times, 32 << 10), "32 KiB in 8.0 us");
  EXPECT_EQ(TimeText(times, (32 << 10) + 1), "64 KiB in 12.0 us");
  EXPECT_EQ(TimeText(times, 1 << 30), "512 KiB in 68.0 us");
}

/// Counts what it is asked.
class CountingLink final : public core::DeviceLink {
 public:
  struct Counts {
    int sums = 0;
    int floats = 0;
    int gathers = 0;
    int aborts = 0;
    absl::Status health;
  };
  explicit CountingLink(Counts& counts) : counts_(counts) {}

  std::string_view name() const override { return "counting"; }
  absl::Status AllReduceSum(std::span<int64_t>) override {
    ++counts_.sums;
    return absl::OkStatus();
  }
  absl::Status AllReduceSum(std::span<float>) override {
    ++counts_.floats;
    return absl::OkStatus();
  }
  absl::Status AllGather(std::span<const std::byte>, std::span<std::byte>) override {
    ++counts_.gathers;
    return absl::OkStatus();
  }
  absl::Status Health() override { return counts_.health; }
  void Abort() override { ++counts_.aborts; }
  absl::Status Finish(std::chrono::milliseconds) override { return counts_.health; }

 private:
  Counts& counts_;
};

TEST(PairedLink, SendsWhatIsSmallByTheFirst) {
  CountingLink::Counts small;
  CountingLink::Counts large;
  PairedLink pair(std::make_unique<CountingLink>(small), std::make_unique<CountingLink>(large), 64,
                  "both");
  EXPECT_EQ(pair.name(), "both");
  std::vector<int64_t> sums(9);
  EXPECT_TRUE(pair.AllReduceSum(std::span(sums).first(8)).ok());
  EXPECT_TRUE(pair.AllReduceSum(std::span(sums)).ok());
  std::vector<float> floats(17);
  EXPECT_TRUE(pair.AllReduceSum(std::span(floats).first(16)).ok());
  EXPECT_TRUE(pair.AllReduceSum(std::span(floats)).ok());
  std::vector<std::byte> bytes(65);
  EXPECT_TRUE(pair.AllGather(std::span(bytes).first(32), std::span(bytes).first(64)).ok());
  EXPECT_TRUE(pair.AllGather(std::span(bytes).first(13), bytes).ok());
  for (const CountingLink::Counts& counts : {small, large}) {
    EXPECT_EQ(counts.sums, 1);
    EXPECT_EQ(counts.floats, 1);
    EXPECT_EQ(counts.gathers, 1);
  }
}

TEST(PairedLink, FailsWithEitherAndEndsBoth) {
  CountingLink::Counts small;
  CountingLink::Counts large;
  PairedLink pair(std::make_unique<CountingLink>(small), std::make_unique<CountingLink>(large), 64,
                  "both");
  EXPECT_TRUE(pair.Health().ok() && pair.Finish(std::chrono::seconds(1)).ok());
  large.health = absl::UnavailableError("gone");
  EXPECT_EQ(Message(pair.Health()), "gone");
  EXPECT_EQ(Message(pair.Finish(std::chrono::seconds(1))), "gone");
  EXPECT_EQ(small.aborts, 1);
  EXPECT_EQ(large.aborts, 1);
}

}  // namespace
}  // namespace tandem::parallel
