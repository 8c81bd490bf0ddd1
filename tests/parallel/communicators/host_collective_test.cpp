#include "parallel/communicators/host_collective.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include "parallel/communicators/shared_memory.h"
#include "parallel/communicators/thread_communicator.h"

namespace tandem::parallel {
namespace {

using std::chrono::microseconds;
using ::testing::HasSubstr;

/// Memory of one host, for ranks that are threads here.
class Host {
 public:
  Host(int ranks, const HostCollectiveOptions& options)
      : ranks_(ranks),
        options_(options),
        memory_(*SharedMemory::Create(HostCollective::BytesNeeded(ranks, options))) {
    memory_.RemoveName();
  }
  std::byte* data() { return memory_.data(); }

  /// Runs every rank in a thread of its own.
  void Run(const CollectivePatience& patience, const std::function<void(HostCollective&)>& body) {
    std::vector<std::thread> threads;
    for (int rank = 0; rank < ranks_; ++rank) {
      threads.emplace_back([&, rank] {
        HostCollective collective(memory_.data(), rank, ranks_, options_);
        collective.set_patience(patience);
        body(collective);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

 private:
  const int ranks_;
  const HostCollectiveOptions options_;
  SharedMemory memory_;
};

constexpr CollectivePatience kSleepAtOnce = {.spin = microseconds(0)};
constexpr CollectivePatience kPoll = {.spin = microseconds(20)};

int64_t ValueIn(int rank, size_t index, int round) {
  return (int64_t{rank} + 1) * 1000003 * static_cast<int64_t>(index + 1) - round;
}

std::vector<int64_t> ValuesIn(int rank, size_t size, int round) {
  std::vector<int64_t> values(size);
  for (size_t i = 0; i < size; ++i) values[i] = ValueIn(rank, i, round);
  return values;
}

std::vector<int64_t> SumsIn(int ranks, size_t size, int round) {
  std::vector<int64_t> sums(size);
  for (size_t i = 0; i < size; ++i) {
    for (int rank = 0; rank < ranks; ++rank) sums[i] += ValueIn(rank, i, round);
  }
  return sums;
}

struct Way {
  int ranks;
  HostCollectiveOptions options;
  CollectivePatience patience;
};

class HostCollectiveWays : public ::testing::TestWithParam<Way> {};

/// Sizes around the borders (slot of 32 numbers, one line, one shot) and random ones, sums and
/// gathers mixed, some ranks late.
TEST_P(HostCollectiveWays, SumsAndGathersAreExact) {
  const Way& way = GetParam();
  Host host(way.ranks, way.options);
  host.Run(way.patience, [&](HostCollective& collective) {
    ASSERT_TRUE(collective.ChooseStores().ok());
    std::mt19937 random(5);
    std::mt19937 own(static_cast<unsigned>(collective.rank()));
    for (int round = 0; round < 400; ++round) {
      const std::vector<size_t> borders = {0, 1, 7, 8, 9, 31, 32, 33, 63, 64, 65, 257, 1000};
      const size_t size = round % 2 == 0 ? borders[random() % borders.size()] : random() % 300;
      if (own() % 64 == 0) std::this_thread::sleep_for(microseconds(own() % 3000));
      std::vector<int64_t> values = ValuesIn(collective.rank(), size, round);
      if (random() % 3 != 0) {
        ASSERT_TRUE(collective.AllReduceSum(values).ok());
        ASSERT_EQ(values, SumsIn(collective.ranks(), size, round)) << size;
        continue;
      }
      // Any number of bytes, also such that do not fill numbers.
      const size_t bytes = size * 8 - std::min<size_t>(size, random() % 8);
      std::vector<std::byte> all(bytes * static_cast<size_t>(collective.ranks()));
      ASSERT_TRUE(collective.AllGather(std::as_bytes(std::span(values)).first(bytes), all).ok());
      for (int rank = 0; rank < collective.ranks(); ++rank) {
        const std::vector<int64_t> expected = ValuesIn(rank, size, round);
        if (bytes == 0) continue;
        ASSERT_EQ(std::memcmp(&all[static_cast<size_t>(rank) * bytes], expected.data(), bytes), 0);
      }
    }
  });
}

constexpr HostCollectiveOptions kSmallSlots = {.slot_bytes = 256, .one_shot_bytes = 192};
constexpr HostCollectiveOptions kNeverAtOnce = {.slot_bytes = 4096, .one_shot_bytes = 0};

INSTANTIATE_TEST_SUITE_P(All, HostCollectiveWays,
                         ::testing::Values(Way{1, kSmallSlots, kPoll}, Way{2, kSmallSlots, kPoll},
                                           Way{2, kSmallSlots, kSleepAtOnce}, Way{2, {}, kPoll},
                                           Way{3, kSmallSlots, kSleepAtOnce},
                                           Way{3, kNeverAtOnce, kSleepAtOnce},
                                           Way{4, kSmallSlots, kSleepAtOnce},
                                           Way{5, kNeverAtOnce, kPoll}, Way{7, {}, kSleepAtOnce}));

TEST(HostCollective, CountsPastTheEndOfItsCounter) {
  constexpr int kRanks = 3;
  Host host(kRanks, {});
  for (int rank = 0; rank < kRanks; ++rank) {
    const uint32_t arrivals = 0xFFFFFFF0;
    std::memcpy(host.data() + rank * HostCollective::kPlaceBytes, &arrivals, sizeof(arrivals));
  }
  host.Run(kSleepAtOnce, [](HostCollective& collective) {
    for (int round = 0; round < 50; ++round) {
      std::vector<int64_t> values = ValuesIn(collective.rank(), 5, round);
      ASSERT_TRUE(collective.AllReduceSum(values).ok());
      ASSERT_EQ(values, SumsIn(kRanks, 5, round));
    }
  });
}

TEST(HostCollective, NamesARankThatAsksForSomethingElse) {
  Host host(3, {});
  host.Run(kPoll, [](HostCollective& collective) {
    std::vector<int64_t> values(collective.rank() == 1 ? 9 : 8);
    const absl::Status status = collective.AllReduceSum(values);
    EXPECT_THAT(Message(status), HasSubstr("rank 1 of this host asks for a sum of 72 bytes"));
  });
  Host other(2, {});
  other.Run(kPoll, [](HostCollective& collective) {
    std::vector<int64_t> values(2);
    std::vector<std::byte> all(32);
    const absl::Status status = collective.rank() == 0
                                    ? collective.AllReduceSum(values)
                                    : collective.AllGather(std::as_bytes(std::span(values)), all);
    EXPECT_THAT(Message(status), HasSubstr("a gather of 16 bytes"));
  });
}

/// Hosts of 3, 2 and 4 ranks: two slices meet between them.
TEST(HostCollective, SumsOverHosts) {
  const std::vector<int> sizes = {3, 2, 4};
  constexpr int kOwners = 2;
  constexpr int kRanks = 9;
  std::vector<std::unique_ptr<Host>> hosts;
  for (const int size : sizes) hosts.push_back(std::make_unique<Host>(size, kSmallSlots));
  std::vector<std::vector<std::unique_ptr<Communicator>>> slices;
  for (int owner = 0; owner < kOwners; ++owner) {
    slices.push_back(MakeThreadWorld(static_cast<int>(sizes.size()), {}));
  }
  std::vector<std::thread> threads;
  int first = 0;
  for (size_t h = 0; h < sizes.size(); ++h) {
    threads.emplace_back([&, h, first] {
      hosts[h]->Run(kSleepAtOnce, [&](HostCollective& collective) {
        for (int round = 0; round < 60; ++round) {
          const size_t size = static_cast<size_t>(round * 7) % 150;
          std::vector<int64_t> values = ValuesIn(first + collective.rank(), size, round);
          const auto between = [&](std::span<int64_t> sums) {
            return slices[static_cast<size_t>(collective.rank())][h]->AllReduceSum(sums, {});
          };
          ASSERT_TRUE(collective.AllReduceSum(values, kOwners, between).ok());
          ASSERT_EQ(values, SumsIn(kRanks, size, round));
        }
      });
    });
    first += sizes[h];
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(HostCollective, MeetsTheOthersEvenIfTheNetworkFails) {
  Host host(2, {});
  host.Run(kPoll, [](HostCollective& collective) {
    std::vector<int64_t> values(4);
    const auto between = [](std::span<int64_t>) { return Unavailable("cable"); };
    const absl::Status status = collective.AllReduceSum(values, 1, between);
    EXPECT_EQ(status.ok(), collective.rank() == 1);
  });
}

TEST(SharedMemory, IsSharedByProcessesAndLeavesNoName) {
  absl::StatusOr<SharedMemory> memory = SharedMemory::Create(8192);
  ASSERT_TRUE(memory.ok()) << memory.status();
  ASSERT_TRUE(memory->Reserve(0, 8192).ok());
  const std::string name = memory->name();
  const pid_t child = fork();
  if (child == 0) {
    absl::StatusOr<SharedMemory> same = SharedMemory::Open(name, 8192);
    if (!same.ok()) _exit(1);
    same->data()[5000] = std::byte{42};
    _exit(0);
  }
  int status = 1;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(memory->data()[5000], std::byte{42});
  memory->RemoveName();
  EXPECT_THAT(Message(SharedMemory::Open(name, 8192).status()), HasSubstr(name));
}

TEST(SharedMemory, SaysWhyThereIsNone) {
  EXPECT_THAT(Message(SharedMemory::Create(int64_t{1} << 62).status()), HasSubstr("bytes"));
}

}  // namespace
}  // namespace tandem::parallel
