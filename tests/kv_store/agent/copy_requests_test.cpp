#include "kv_store/agent/copy_requests.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <optional>
#include <thread>

#include "kv_store/agent/agent_neighbours.h"
#include "kv_store/agent_link/copy_keeper.h"
#include "kv_store/tiers/memory_tier.h"
#include "tests/support/temporary_directory.h"

namespace tandem::kv_store {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;
using testing::TemporaryDirectory;

const StateId kState{7};

/// An agent without its own clients' socket.
struct Host {
  explicit Host(const std::string& folder)
      : registry(Open(folder)), local({}), peers(registry.keys(), Options(folder)) {
    neighbours.emplace(
        registry, peers,
        AgentNeighbours::Here{
            .tier = local,
            .erase = [this](std::span<const BlockHash> blocks) { return local.Erase(blocks); },
            .stats = [] { return AgentStats(); }},
        lease, AgentNeighboursOptions{.look = milliseconds(20)});
  }
  static PeerRegistry Open(const std::string& folder) {
    std::filesystem::create_directories(folder);
    return *PeerRegistry::Open(folder);
  }
  static PeerTierOptions Options(const std::string& folder) {
    PeerTierOptions options;
    options.registry_folder = folder + "/peers";
    options.calls = {.ping_deadline = milliseconds(300),
                     .first_retry = milliseconds(10),
                     .last_retry = milliseconds(100)};
    return options;
  }
  CopyKeeper Keeper() {
    return CopyKeeper(kState,
                      [this](AgentMessage message, milliseconds) -> absl::StatusOr<AgentMessage> {
                        return *neighbours->DoWithCopies(message);
                      });
  }

  PeerRegistry registry;
  MemoryTier local;
  PeerTier peers;
  std::shared_ptr<Lease> lease = std::make_shared<Lease>();
  std::optional<AgentNeighbours> neighbours;
};

struct Job {
  explicit Job(int count) {
    std::vector<AgentPeer> all;
    for (int i = 0; i < count; ++i) {
      hosts.push_back(std::make_unique<Host>(PathOf(i)));
      all.push_back(*hosts.back()->neighbours->Listen("127.0.0.1"));
    }
    std::vector<std::thread> threads;
    for (const auto& host : hosts) {
      threads.emplace_back([&] {
        const absl::Status met = host->neighbours->Introduce({.peers = all, .copies = 1});
        EXPECT_TRUE(met.ok()) << met;
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  std::string PathOf(int i) const { return fmt::format("{}/host{}", directory.path(), i); }

  TemporaryDirectory directory;
  std::vector<std::unique_ptr<Host>> hosts;
};

JournalPart Whole(const JournalPosition& at, std::vector<PlacedRecord> records) {
  records.push_back({"J", EncodePosition(at)});
  return {.session = 1,
          .number = 0,
          .last = true,
          .overwrite = false,
          .at = at,
          .records = std::move(records)};
}

TEST(CopyRequests, ReachAnotherHostAndNobodyPassesThemOn) {
  Job job(3);
  const CopyKeeper keeper = job.hosts[0]->Keeper();
  const auto found = keeper.Find(false);
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->self, "host0");
  ASSERT_TRUE(found->keeper == "host1" || found->keeper == "host2") << found->keeper;
  // Everybody of the same hosts would choose the same.
  EXPECT_EQ(keeper.Find(false)->keeper, found->keeper);

  const std::string host = found->keeper;
  const JournalPosition start = NewJournal();
  ASSERT_EQ(keeper.Give(host, Whole(start, {{"C1", "text"}, {"I", "identity"}})), absl::OkStatus());
  const JournalEntry entry{
      .at = start.Next(),
      .changes = {{.kind = JournalChange::Kind::kPut, .place = "C2", .bytes = "more"}}};
  EXPECT_EQ(*keeper.Append(host, {entry}), entry.at);
  const auto all = keeper.ReadAll(host);
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_EQ(all->at, entry.at);
  ASSERT_EQ(all->records.size(), 4U);
  EXPECT_EQ(all->records[1].bytes, "more");
  // The others see it too; nobody else has one.
  for (const auto& other : job.hosts) {
    const auto seen = other->Keeper().Find(false);
    ASSERT_EQ(seen->copies.size(), 1U);
    EXPECT_EQ(seen->copies[0].host, host);
    EXPECT_EQ(seen->copies[0].copy.position, entry.at);
    EXPECT_TRUE(seen->copies[0].copy.attended);
  }
  EXPECT_TRUE(absl::IsNotFound(keeper.ReadAll("host0").status()));
  EXPECT_TRUE(absl::IsUnavailable(keeper.ReadAll("nobody").status()));

  // A peer asks for itself.
  auto& calls = job.hosts[0]->peers.calls();
  for (const auto& peer : calls.Peers()) {
    const auto answers = calls.Ask(
        {{.peer = peer, .message = AgentCopyRead{.to = host, .state = kState, .behind = {}}},
         {.peer = peer, .message = AgentCopyFence{.state = kState, .at = start}}},
        PeerCalls::Clock::now() + milliseconds(2000));
    for (const auto& answer : answers) {
      ASSERT_TRUE(answer.ok());
      const auto* status = std::get_if<AgentStatus>(&*answer);
      ASSERT_NE(status, nullptr);
      EXPECT_TRUE(absl::IsInvalidArgument(status->status)) << status->status;
    }
  }
}

TEST(CopyRequests, PurgingReachesAllOrNamesWhomItDidNot) {
  Job job(3);
  const CopyKeeper keeper = job.hosts[0]->Keeper();
  const JournalPosition start = NewJournal();
  for (const std::string host : {"host1", "host2"}) {
    ASSERT_TRUE(keeper.Give(host, Whole(start, {{"C1", "text"}, {"I", "identity"}})).ok());
  }
  const std::vector<PlaceRange> ranges = {{"C1", "C2"}};
  ASSERT_EQ(keeper.Erase(start.Next(), ranges), absl::OkStatus());
  const auto left = keeper.Find(false);
  ASSERT_EQ(left->copies.size(), 2U);
  for (const auto& [host, copy] : left->copies) {
    EXPECT_EQ(copy.condition, JournalCopy::Condition::kFence) << host;
  }
  job.hosts[2].reset();
  const absl::Status status = keeper.Erase(start.Next(), ranges);
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_THAT(Message(status), HasSubstr("host2"));
  EXPECT_THAT(Message(status), HasSubstr("host0/peers/host2"));
}

}  // namespace
}  // namespace tandem::kv_store
