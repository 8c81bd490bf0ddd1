#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <map>
#include <thread>

#include "kv_store/agent/agent_neighbours.h"
#include "kv_store/peers/peer_registry.h"
#include "kv_store/peers/peer_tier.h"
#include "kv_store/peers/peered_store.h"
#include "kv_store/tiers/memory_tier.h"
#include "tests/kv_store/tiers/tier_suite.h"
#include "tests/support/random.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tier_records.h"

namespace tandem::kv_store {
namespace {

using std::chrono::milliseconds;
using testing::BlockNamed;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::KeysOf;
using testing::RecordOf;
using testing::SplitMix;
using testing::TemporaryDirectory;
using Clock = std::chrono::steady_clock;

/// Waits for what comes soon; false if it does not.
template <typename Condition>
bool Soon(const Condition& condition) {
  for (int i = 0; i < 1000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(milliseconds(10));
  }
  return false;
}

/// Counts what it is asked, and may take its time.
class WatchedTier : public MemoryTier {
 public:
  explicit WatchedTier(const TierLimits& limits) : MemoryTier(limits) {}

  absl::Status Put(std::span<const TierRecord> records) override {
    puts += static_cast<int>(records.size());
    return MemoryTier::Put(records);
  }
  std::vector<std::optional<FoundRecord>> Get(std::span<const RecordKey> keys) override {
    gets += static_cast<int>(keys.size());
    std::this_thread::sleep_for(delay.load());
    return MemoryTier::Get(keys);
  }
  std::vector<std::optional<TierKind>> Where(std::span<const RecordKey> keys) override {
    std::this_thread::sleep_for(delay.load());
    return MemoryTier::Where(keys);
  }
  absl::Status Flush() override {
    ++flushes;
    return MemoryTier::Flush();
  }

  std::atomic<int> puts = 0;
  std::atomic<int> gets = 0;
  std::atomic<int> flushes = 0;
  std::atomic<milliseconds> delay = milliseconds(0);
};

PeerTierOptions Quick() {
  return {.exists_deadline = milliseconds(400),
          .deadline = milliseconds(1500),
          .flush_deadline = milliseconds(2000),
          .batch_bytes = 2500,
          .registry_folder = {},
          .calls = {.ping_deadline = milliseconds(300),
                    .first_retry = milliseconds(10),
                    .last_retry = milliseconds(100)}};
}

/// What an agent is made of, without its own clients' socket; more than one in this process.
struct Host {
  explicit Host(const std::string& folder, const TierLimits& limits = {},
                WritePolicy policy = WritePolicy::kBack)
      : path(folder),
        registry(Open(folder)),
        local(limits),
        peers(registry.keys(), Quick()),
        store(local, peers, {.policy = policy, .drain = milliseconds(2000)}) {
    neighbours.emplace(
        registry, peers,
        AgentNeighbours::Here{
            .tier = local,
            .erase = [this](std::span<const BlockHash> blocks) { return store.EraseHere(blocks); },
            .stats = [this] { return AgentStats{.all = local.Stats(), .by_tier = {}}; }},
        lease, AgentNeighboursOptions{.answer_bytes = 1500, .look = milliseconds(20)});
  }

  static PeerRegistry Open(const std::string& folder) {
    std::filesystem::create_directories(folder);
    auto registry = PeerRegistry::Open(folder);
    EXPECT_TRUE(registry.ok()) << registry.status();
    return *std::move(registry);
  }
  AgentPeer Listen() {
    auto self = neighbours->Listen("127.0.0.1");
    EXPECT_TRUE(self.ok()) << self.status();
    return *self;
  }

  const std::string path;
  PeerRegistry registry;
  WatchedTier local;
  PeerTier peers;
  PeeredStore store;
  std::shared_ptr<Lease> lease = std::make_shared<Lease>();
  std::optional<AgentNeighbours> neighbours;
};

/// Hosts of one job.
struct Job {
  explicit Job(int count, uint32_t copies = 1, WritePolicy policy = WritePolicy::kBack) {
    for (int i = 0; i < count; ++i) {
      hosts.push_back(std::make_unique<Host>(PathOf(i), TierLimits(), policy));
    }
    Introduce(copies);
  }
  std::string PathOf(int i) const { return fmt::format("{}/host{}", directory.path(), i); }
  void Introduce(uint32_t copies) {
    std::vector<AgentPeer> all;
    for (const auto& host : hosts) {
      if (host) all.push_back(host->Listen());
    }
    std::vector<std::thread> threads;
    for (const auto& host : hosts) {
      if (!host) continue;
      threads.emplace_back([&] {
        const absl::Status met = host->neighbours->Introduce({.peers = all, .copies = copies});
        EXPECT_TRUE(met.ok()) << met;
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  Host& operator[](size_t i) { return *hosts[i]; }

  TemporaryDirectory directory;
  std::vector<std::unique_ptr<Host>> hosts;
};

std::vector<TierRecord> Some(int first, int last) {
  std::vector<TierRecord> records;
  for (int n = first; n <= last; ++n) records.push_back(RecordOf(n, 0, 0, 500));
  return records;
}

int CountFound(Tier& tier, const std::vector<TierRecord>& records) {
  const auto found = tier.Get(KeysOf(records));
  int count = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    if (!found[i]) continue;
    EXPECT_EQ(found[i]->bytes, records[i].bytes);
    EXPECT_EQ(found[i]->block, records[i].block);
    ++count;
  }
  return count;
}

int CountExisting(Tier& tier, const std::vector<TierRecord>& records) {
  int count = 0;
  for (const bool exists : tier.Exists(KeysOf(records))) count += exists ? 1 : 0;
  return count;
}

TierMaker OverPeer() {
  return {.name = "Peer",
          .make =
              [](const TierLimits& limits) {
                auto job = std::make_shared<Job>(0);
                job->hosts.push_back(std::make_unique<Host>(job->PathOf(0)));
                job->hosts.push_back(std::make_unique<Host>(job->PathOf(1), limits));
                job->Introduce(2);
                return std::shared_ptr<Tier>(job, &(*job)[0].peers);
              },
          .lists = false};
}

INSTANTIATE_TEST_SUITE_P(Peer, TierSuite, ::testing::Values(OverPeer()), TierMakerName);

TEST(Peers, WhatIsListedAndDroppedIsOfThisHostAlone) {
  Job job(2, /*copies=*/2, WritePolicy::kThrough);
  const std::vector<TierRecord> records = Some(1, 5);
  ASSERT_TRUE(job[0].store.Put(records).ok());
  ASSERT_EQ(CountExisting(job[1].local, records), 5);
  const std::vector<RecordKey> keys = KeysOf(records);
  EXPECT_EQ(job[0].store.List(std::nullopt, 10)->size(), 5U);
  EXPECT_EQ(job[0].store.Peek(TierKind::kHost, keys)[0].bytes, records[0].bytes);
  ASSERT_TRUE(job[0].store.Drop(std::vector{records[0].key, records[1].key}).ok());
  EXPECT_EQ(job[0].store.List(std::nullopt, 10)->size(), 3U);
  EXPECT_EQ(job[0].store.Peek(TierKind::kHost, keys)[0].state, PeekedRecord::State::kMissing);
  EXPECT_EQ(CountExisting(job[1].local, records), 5);
  EXPECT_EQ(CountFound(job[0].store, records), 5) << "the other host's copy comes back";
  static_assert(!std::is_base_of_v<ListableTier, PeerTier>,
                "what a host has is not told to others");
}

TEST(Peers, WhatOneHasAllFindAndKeep) {
  Job job(3);
  const auto records = Some(1, 20);
  ASSERT_TRUE(job[0].store.Put(records).ok());
  ASSERT_TRUE(job[0].store.Flush().ok());
  EXPECT_EQ(job[1].local.puts + job[2].local.puts, 0);  // one copy was asked for
  EXPECT_EQ(CountExisting(job[1].store, records), 20);
  const auto found = job[1].store.Get(KeysOf(records));
  for (size_t i = 0; i < found.size(); ++i) {
    ASSERT_TRUE(found[i].has_value());
    EXPECT_EQ(found[i]->from, TierKind::kRemote);
    EXPECT_EQ(found[i]->bytes, records[i].bytes);
  }
  EXPECT_EQ(job[1].peers.Counts().hits, 20U);
  // It is kept here now.
  const int asked = job[0].local.gets;
  EXPECT_EQ(job[1].store.Get(KeysOf(records))[0]->from, TierKind::kHost);
  EXPECT_EQ(job[0].local.gets, asked);
  // Whoever comes next has a choice, and gets each once.
  EXPECT_EQ(CountFound(job[2].store, records), 20);
  EXPECT_EQ(CountFound(job[2].store, Some(50, 55)), 0);
}

TEST(Peers, NothingIsEverPassedOn) {
  Job job(3, /*copies=*/2);
  const auto records = Some(1, 30);
  ASSERT_TRUE(job[0].store.Put(records).ok());
  ASSERT_TRUE(job[0].store.Flush().ok());
  // One more copy of each, not a third.
  EXPECT_EQ(job[1].local.puts + job[2].local.puts, 30);
  EXPECT_GT(job[1].local.puts, 0);
  EXPECT_GT(job[2].local.puts, 0);
  EXPECT_GT(job[1].local.flushes + job[2].local.flushes, 0);
  // What nobody has is asked once of each, where all of them would pass it on to each other.
  const auto nowhere = Some(100, 109);
  EXPECT_EQ(CountFound(job[0].peers, nowhere), 0);
  EXPECT_EQ(CountExisting(job[0].store, nowhere), 0);
  EXPECT_LE(job[1].local.gets + job[2].local.gets, 20);
  EXPECT_EQ(job[1].peers.Counts().misses + job[2].peers.Counts().misses, 0U);
}

TEST(Peers, TheSecondCopyIsThereWhenAHostIsGone) {
  for (const WritePolicy policy : {WritePolicy::kBack, WritePolicy::kThrough}) {
    Job job(3, /*copies=*/2, policy);
    const auto records = Some(1, 40);
    ASSERT_TRUE(job[0].store.Put(records).ok());
    if (policy == WritePolicy::kThrough) {
      EXPECT_EQ(job[1].local.puts + job[2].local.puts, 40);
    }
    ASSERT_TRUE(job[0].store.Flush().ok());
    job.hosts[0].reset();
    EXPECT_EQ(CountFound(job[1].store, records), 40);
    EXPECT_EQ(CountFound(job[2].store, records), 40);
  }
}

TEST(Peers, CopiesGoToThoseThatAreUp) {
  Job job(3, /*copies=*/2);
  job.hosts[1].reset();
  const auto records = Some(1, 20);
  ASSERT_TRUE(job[0].store.Put(records).ok());
  ASSERT_TRUE(job[0].store.Flush().ok());
  EXPECT_EQ(job[2].local.puts, 20);
  job.hosts[2].reset();
  ASSERT_TRUE(job[0].store.Put(Some(21, 25)).ok());
  // The first copy is there; Flush tells, once.
  const absl::Status flushed = job[0].store.Flush();
  EXPECT_EQ(flushed.code(), absl::StatusCode::kUnavailable) << flushed;
  EXPECT_THAT(Message(flushed), HasSubstr("host1"));
  EXPECT_TRUE(job[0].store.Flush().ok());
  EXPECT_EQ(CountFound(job[0].store, Some(21, 25)), 5);
  EXPECT_EQ(job[0].peers.Counts().refused, 5U);
}

TEST(Peers, OneThatIsLateIsAMissOnceAndThenNotAsked) {
  Job job(3);
  const auto records = Some(1, 5);
  ASSERT_TRUE(job[1].store.Put(records).ok());
  ASSERT_TRUE(job[2].store.Put(Some(6, 10)).ok());
  job[1].local.delay = milliseconds(3000);
  const auto begin = Clock::now();
  // Those of the other peer come in time all the same.
  EXPECT_EQ(CountFound(job[0].store, Some(1, 10)), 5);
  EXPECT_LT(Clock::now() - begin, milliseconds(2500));
  job[1].local.delay = milliseconds(0);
  EXPECT_TRUE(Soon([&] { return CountFound(job[0].store, records) == 5; }));
}

TEST(Peers, OneThatIsGoneIsFoundWhenItIsBack) {
  Job job(2);
  const auto records = Some(1, 5);
  job.hosts[1].reset();
  EXPECT_EQ(CountFound(job[0].store, records), 0);
  // The same address and key, without any job.
  job.hosts[1] = std::make_unique<Host>(job.PathOf(1));
  ASSERT_TRUE(job[1].local.Put(records).ok());
  EXPECT_TRUE(Soon([&] { return CountFound(job[0].store, records) == 5; }));
  // And it knows the other one still.
  ASSERT_TRUE(job[0].local.Put(Some(6, 8)).ok());
  EXPECT_TRUE(Soon([&] { return CountFound(job[1].store, Some(6, 8)) == 3; }));
}

TEST(Peers, StrangersAreRefused) {
  Job job(2);
  const auto records = Some(1, 3);
  ASSERT_TRUE(job[0].local.Put(records).ok());
  const AgentPeer served = job[0].Listen();
  PeerTier stranger(MakeCurveKeys(), Quick());
  stranger.SetPeers({{.peer = served}});
  EXPECT_FALSE(stranger.Await({served.host}, milliseconds(300)));
  EXPECT_EQ(CountFound(stranger, records), 0);
  // The right key for the wrong server is none either.
  AgentPeer impostor = served;
  impostor.public_key = MakeCurveKeys().public_key;
  PeerTier mistaken(job[1].registry.keys(), Quick());
  mistaken.SetPeers({{.peer = impostor}});
  EXPECT_FALSE(mistaken.Await({served.host}, milliseconds(300)));
  // A known one, and no longer: also on the connection that stands.
  PeerTier known(job[1].registry.keys(), Quick());
  known.SetPeers({{.peer = served}});
  ASSERT_TRUE(known.Await({served.host}, milliseconds(5000)));
  EXPECT_EQ(CountFound(known, records), 3);
  std::filesystem::remove(job[0].registry.PathOf("host1"));
  EXPECT_TRUE(Soon([&] { return CountFound(known, records) == 0; }));
}

TEST(Peers, MayNotSteerTheAgentOfAnotherHost) {
  Job job(2);
  PeerCalls calls(job[1].registry.keys(), {.first_retry = milliseconds(10)});
  const AgentPeer served = job[0].Listen();
  calls.SetPeers({served});
  ASSERT_TRUE(calls.Await({served.host}, Clock::now() + milliseconds(5000)));
  AgentIntroduction meet;
  meet.peers.push_back(
      {.host = "evil", .endpoint = "tcp://10.0.0.9:1", .public_key = MakeCurveKeys().public_key});
  const std::vector<AgentMessage> forbidden = {AgentStop(), AgentRenew(), AgentStatus(),
                                               AgentListen{.address = "0.0.0.0"}, meet};
  for (const AgentMessage& message : forbidden) {
    const auto answers = calls.Ask({{.peer = calls.Peers()[0], .message = message}},
                                   Clock::now() + milliseconds(5000));
    ASSERT_TRUE(answers[0].ok()) << answers[0].status();
    EXPECT_EQ(std::get<AgentStatus>(*answers[0]).status.code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(job[0].registry.Peers().size(), 1U);
  const auto age = job[0].lease->age();
  const auto pong = calls.Ask({{.peer = calls.Peers()[0], .message = AgentPing()}},
                              Clock::now() + milliseconds(5000));
  ASSERT_TRUE(pong[0].ok());
  EXPECT_GE(job[0].lease->age(), age);  // not renewed
}

TEST(Peers, EraseReachesAll) {
  Job job(3, /*copies=*/2);
  const auto records = Some(1, 10);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(job[static_cast<size_t>(i)].store.Put(records).ok());
  const absl::Status erased =
      job[0].store.Erase(std::vector{BlockNamed(1), BlockNamed(2), BlockNamed(3)});
  ASSERT_TRUE(erased.ok()) << erased;
  for (const auto& host : job.hosts) {
    ASSERT_TRUE(host->store.Flush().ok());
    EXPECT_EQ(CountExisting(host->local, Some(1, 3)), 0);
    EXPECT_EQ(CountExisting(host->local, Some(4, 10)), 7);
  }
}

TEST(Peers, EraseSaysWhomItDidNotReachUntilHeIsBackOrDropped) {
  Job job(3);
  const auto records = Some(1, 3);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(job[static_cast<size_t>(i)].store.Put(records).ok());
  job.hosts[1].reset();
  const std::vector<BlockHash> blocks = {BlockNamed(1), BlockNamed(2), BlockNamed(3)};
  absl::Status erased = job[0].store.Erase(blocks);
  EXPECT_EQ(erased.code(), absl::StatusCode::kUnavailable) << erased;
  EXPECT_THAT(Message(erased), HasSubstr("host1"));
  EXPECT_EQ(CountExisting(job[0].local, records), 0);
  EXPECT_EQ(CountExisting(job[2].local, records), 0);

  job.hosts[1] = std::make_unique<Host>(job.PathOf(1));
  ASSERT_TRUE(job[1].local.Put(records).ok());  // as its disk would have them
  EXPECT_TRUE(Soon([&] { return job[0].store.Erase(blocks).ok(); }));
  EXPECT_EQ(CountExisting(job[1].local, records), 0);

  job.hosts[1].reset();
  EXPECT_FALSE(job[0].store.Erase(blocks).ok());
  std::filesystem::remove(job[0].registry.PathOf("host1"));
  EXPECT_TRUE(Soon([&] { return job[0].store.Erase(blocks).ok(); }));
}

/// Many threads on three hosts put, get and erase; whatever is found is right, and what was erased
/// when nobody put any more is nowhere.
TEST(Peers, ManyThreadsOnManyHosts) {
  Job job(3, /*copies=*/2);
  std::atomic<int> wrong = 0;
  std::atomic<int> right = 0;
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 6; ++t) {
    threads.emplace_back([&, t] {
      SplitMix random(t);
      Tier& tier = job[t % 3].store;
      for (int i = 0; i < 60; ++i) {
        std::vector<TierRecord> batch;
        for (int b = 0; b < 4; ++b) {
          const int n = static_cast<int>(1 + random.Below(60));
          batch.push_back(RecordOf(n, n / 2, static_cast<int>(random.Below(2)), 500));
        }
        const uint64_t what = random.Below(16);
        if (what < 7) {
          static_cast<void>(tier.Put(batch));
        } else if (what < 14) {
          const auto found = tier.Get(KeysOf(batch));
          for (size_t k = 0; k < batch.size(); ++k) {
            if (!found[k]) continue;
            (found[k]->bytes == batch[k].bytes ? right : wrong) += 1;
          }
        } else if (what < 15) {
          static_cast<void>(tier.Erase(std::vector{batch[0].block}));
        } else {
          static_cast<void>(tier.Flush());
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(right, 0);
  std::vector<BlockHash> all;
  for (int n = 1; n <= 60; ++n) all.push_back(BlockNamed(n));
  EXPECT_TRUE(Soon([&] { return job[1].store.Erase(all).ok(); }));
  for (const auto& host : job.hosts) EXPECT_EQ(host->local.Stats().records, 0);
}

}  // namespace
}  // namespace tandem::kv_store
