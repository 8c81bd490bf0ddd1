#include "kv_store/tiers/tiered_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "kv_store/tiers/disk_tier.h"
#include "tests/kv_store/tiers/tier_suite.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tier_records.h"

namespace tandem::kv_store {
namespace {

using testing::BlockNamed;
using ::testing::Each;
using ::testing::ElementsAre;
using testing::KeysOf;
using testing::RecordOf;
using testing::TemporaryDirectory;

std::vector<TieredStore::Behind> Behind(std::unique_ptr<ListableTier> tier) {
  std::vector<TieredStore::Behind> behind;
  behind.push_back({.kind = TierKind::kDisk, .tier = std::move(tier)});
  return behind;
}

TierMaker InMemory(const std::string& name, WritePolicy policy) {
  return {.name = name, .make = [policy](const TierLimits& limits) {
            return std::make_shared<TieredStore>(
                TieredStoreOptions{.host = limits, .policy = policy},
                Behind(std::make_unique<MemoryTier>(limits)));
          }};
}

struct StoreInDirectory {
  TemporaryDirectory directory;
  std::unique_ptr<TieredStore> store;
};

TierMaker OnDisk() {
  return {.name = "ThroughToDisk", .make = [](const TierLimits& limits) {
            auto both = std::make_shared<StoreInDirectory>();
            auto disk = DiskTier::Open(
                {.directory = both->directory.path(), .limits = limits, .reserve_bytes = 0});
            EXPECT_TRUE(disk.ok()) << disk.status();
            both->store = std::make_unique<TieredStore>(
                TieredStoreOptions{.host = limits, .policy = WritePolicy::kThrough},
                Behind(std::move(*disk)));
            return std::shared_ptr<Tier>(both, both->store.get());
          }};
}

TierMaker HostOnly() {
  return {.name = "HostOnly", .make = [](const TierLimits& limits) {
            return std::make_shared<TieredStore>(TieredStoreOptions{.host = limits},
                                                 std::vector<TieredStore::Behind>());
          }};
}

INSTANTIATE_TEST_SUITE_P(Tiered, TierSuite,
                         ::testing::Values(InMemory("Through", WritePolicy::kThrough), OnDisk(),
                                           HostOnly()),
                         TierMakerName);

/// A tier behind that can be slow, or refuse.
class WatchedTier : public MemoryTier {
 public:
  WatchedTier() : MemoryTier({}) {}
  absl::Status Put(std::span<const TierRecord> records) override {
    while (held) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    if (refuses) return ResourceExhausted("full");
    ++puts;
    return MemoryTier::Put(records);
  }
  absl::Status Flush() override {
    ++flushes;
    return absl::OkStatus();
  }
  std::atomic<bool> held = false;
  std::atomic<bool> refuses = false;
  std::atomic<int> puts = 0;
  std::atomic<int> flushes = 0;
};

struct Watched {
  explicit Watched(const TieredStoreOptions& options) {
    auto tier = std::make_unique<WatchedTier>();
    behind = tier.get();
    store = std::make_unique<TieredStore>(options, Behind(std::move(tier)));
  }
  std::unique_ptr<TieredStore> store;
  WatchedTier* behind = nullptr;
};

std::vector<TierRecord> Ten(int first = 1) {
  std::vector<TierRecord> records;
  for (int n = first; n < first + 10; ++n) records.push_back(RecordOf(n, 0, 0, 100));
  return records;
}

TEST(TieredStore, WritesBackLaterAndFlushWaitsForIt) {
  Watched watched({.host = {}, .policy = WritePolicy::kBack});
  watched.behind->held = true;
  ASSERT_TRUE(watched.store->Put(Ten()).ok());
  EXPECT_THAT(watched.behind->Exists(KeysOf(Ten())), Each(false));
  std::thread release([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    watched.behind->held = false;
  });
  EXPECT_TRUE(watched.store->Flush().ok());
  release.join();
  EXPECT_THAT(watched.behind->Exists(KeysOf(Ten())), Each(true));
  EXPECT_EQ(watched.behind->flushes, 1);
}

TEST(TieredStore, WhatWaitsIsFoundThoughHostMemoryHasLetGoOfIt) {
  Watched watched({.host = {.bytes = 300}, .policy = WritePolicy::kBack});
  watched.behind->held = true;
  ASSERT_TRUE(watched.store->Put(Ten()).ok());
  EXPECT_THAT(watched.store->Exists(KeysOf(Ten())), Each(true));
  const auto found = watched.store->Get(KeysOf(Ten()));
  for (size_t i = 0; i < 10; ++i) {
    ASSERT_TRUE(found[i].has_value());
    EXPECT_EQ(found[i]->bytes, Ten()[i].bytes);
  }
  watched.behind->held = false;
}

TEST(TieredStore, WhoeverPutsTooMuchWritesItHimself) {
  Watched watched({.host = {}, .policy = WritePolicy::kBack, .queue_bytes = 250});
  ASSERT_TRUE(watched.store->Put(Ten()).ok());
  ASSERT_TRUE(watched.store->Flush().ok());
  EXPECT_THAT(watched.behind->Exists(KeysOf(Ten())), Each(true));
}

TEST(TieredStore, FlushTellsWhatCouldNotBeWritten) {
  Watched watched({.host = {}, .policy = WritePolicy::kBack});
  watched.behind->refuses = true;
  ASSERT_TRUE(watched.store->Put(Ten()).ok());
  EXPECT_EQ(watched.store->Flush().code(), absl::StatusCode::kResourceExhausted);
  watched.behind->refuses = false;
  ASSERT_TRUE(watched.store->Put(Ten(20)).ok());
  EXPECT_TRUE(watched.store->Flush().ok());
  Watched through({.host = {}, .policy = WritePolicy::kThrough});
  through.behind->refuses = true;
  EXPECT_EQ(through.store->Put(Ten()).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(through.store->Exists(KeysOf(Ten())), Each(true));
}

TEST(TieredStore, OnEvictWritesWhatLeavesHostMemoryAndTheRestAtTheEnd) {
  auto last = std::make_shared<MemoryTier>(TierLimits());
  // Outlives the store that it stands behind.
  class Shared : public ListableTier {
   public:
    explicit Shared(std::shared_ptr<ListableTier> tier) : tier_(std::move(tier)) {}
    absl::Status Put(std::span<const TierRecord> records) override { return tier_->Put(records); }
    std::vector<std::optional<FoundRecord>> Get(std::span<const RecordKey> keys) override {
      return tier_->Get(keys);
    }
    std::vector<std::optional<TierKind>> Where(std::span<const RecordKey> keys) override {
      return tier_->Where(keys);
    }
    absl::Status Flush() override { return tier_->Flush(); }
    absl::Status Erase(std::span<const BlockHash> blocks) override { return tier_->Erase(blocks); }
    absl::Status Drop(std::span<const RecordKey> keys) override { return tier_->Drop(keys); }
    TierStats Stats() override { return tier_->Stats(); }
    absl::StatusOr<std::vector<ListedBlock>> List(const std::optional<BlockHash>& after,
                                                  size_t most) override {
      return tier_->List(after, most);
    }
    std::vector<PeekedRecord> Peek(TierKind tier, std::span<const RecordKey> keys) override {
      return tier_->Peek(tier, keys);
    }

   private:
    std::shared_ptr<ListableTier> tier_;
  };
  {
    TieredStore store({.host = {.bytes = 500}, .policy = WritePolicy::kOnEvict},
                      Behind(std::make_unique<Shared>(last)));
    ASSERT_TRUE(store.Put(Ten()).ok());
    ASSERT_TRUE(store.Put(std::vector{RecordOf(50, 0, 0, 1000)}).ok());  // larger than the host's
    ASSERT_TRUE(store.Flush().ok());
    EXPECT_EQ(last->Stats().records, 6);
    EXPECT_THAT(store.Exists(KeysOf(Ten())), Each(true));
  }
  EXPECT_EQ(last->Stats().records, 11);
}

TEST(TieredStore, KeepsNearbyWhatWasFoundFarAway) {
  Watched watched({.host = {}, .policy = WritePolicy::kBack});
  ASSERT_TRUE(watched.behind->Put(Ten()).ok());
  const auto keys = KeysOf(Ten());
  EXPECT_EQ(watched.store->Get(keys)[3]->from, TierKind::kHost);  // as WatchedTier says of itself
  EXPECT_EQ(watched.store->StatsByTier()[0].second.records, 10);
  EXPECT_EQ(watched.store->StatsByTier()[1].second.hits, 10U);
  watched.store->Get(keys);
  EXPECT_EQ(watched.store->StatsByTier()[0].second.hits, 10U);
  EXPECT_EQ(watched.store->StatsByTier()[1].second.hits, 10U);
  EXPECT_EQ(watched.store->Stats().hits, 20U);
}

TEST(TieredStore, ErasesWhatIsOnItsWay) {
  Watched watched({.host = {.bytes = 300}, .policy = WritePolicy::kBack});
  watched.behind->held = true;
  ASSERT_TRUE(watched.store->Put(Ten()).ok());
  std::thread release([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    watched.behind->held = false;
  });
  ASSERT_TRUE(watched.store->Erase(std::vector{BlockNamed(1), BlockNamed(9)}).ok());
  release.join();
  EXPECT_THAT(watched.store->Exists(KeysOf(Ten())),
              ElementsAre(false, true, true, true, true, true, true, true, false, true));
}

TEST(TieredStore, PoliciesHaveNames) {
  EXPECT_EQ(ParseWritePolicy("through"), WritePolicy::kThrough);
  EXPECT_EQ(ParseWritePolicy("back"), WritePolicy::kBack);
  EXPECT_EQ(ParseWritePolicy("on-evict"), WritePolicy::kOnEvict);
  EXPECT_EQ(ParseWritePolicy("never"), std::nullopt);
}

}  // namespace
}  // namespace tandem::kv_store
