#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>

#include "kv_store/agent/agent_server.h"
#include "kv_store/agent_link/agent_codec.h"
#include "kv_store/agent_link/agent_tier.h"
#include "kv_store/tiers/disk_tier.h"
#include "kv_store/tiers/memory_tier.h"
#include "kv_store/tiers/tiered_store.h"
#include "tests/kv_store/tiers/tier_suite.h"
#include "tests/support/changed_bytes.h"
#include "tests/support/random.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tier_records.h"

namespace tandem::kv_store {
namespace {

using std::chrono::milliseconds;
using ::testing::Each;
using ::testing::HasSubstr;
using testing::KeysOf;
using testing::RecordOf;
using testing::SplitMix;
using testing::TemporaryDirectory;

AgentDirectory MustOpen(const std::string& path) {
  auto directory = AgentDirectory::Open(path);
  EXPECT_TRUE(directory.ok()) << directory.status();
  return std::move(*directory);
}

std::unique_ptr<AgentServer> Serve(const std::string& path, ListableTier& tier,
                                   const AgentServerOptions& options = {}) {
  AgentDirectory directory = MustOpen(path);
  EXPECT_TRUE(directory.Lock().ok());
  auto server = AgentServer::Create(
      std::move(directory), tier,
      [&tier] {
        return std::vector<std::pair<TierKind, TierStats>>{{TierKind::kHost, tier.Stats()}};
      },
      options);
  EXPECT_TRUE(server.ok()) << server.status();
  return std::move(*server);
}

/// A tier, its agent and a client, which go in the opposite order.
struct ServedTier {
  TemporaryDirectory directory;
  std::unique_ptr<ListableTier> tier;
  std::unique_ptr<AgentServer> server;
  std::unique_ptr<AgentTier> client;

  void Start(const AgentServerOptions& server_options = {},
             const AgentTierOptions& client_options = {}) {
    server = Serve(directory.path(), *tier, server_options);
    client = std::make_unique<AgentTier>(MustOpen(directory.path()), client_options);
  }
};

TierMaker OverMemory() {
  return {.name = "Memory", .make = [](const TierLimits& limits) {
            auto served = std::make_shared<ServedTier>();
            served->tier = std::make_unique<MemoryTier>(limits);
            // Answers of a record or two, so that one call takes several.
            served->Start({.answer_bytes = 1500}, {.batch_bytes = 700});
            return std::shared_ptr<Tier>(served, served->client.get());
          }};
}

TierMaker OverHostAndDisk() {
  return {.name = "HostAndDisk", .make = [](const TierLimits& limits) {
            auto served = std::make_shared<ServedTier>();
            auto disk = DiskTier::Open({.directory = served->directory.path() + "/records",
                                        .limits = limits,
                                        .reserve_bytes = 0});
            EXPECT_TRUE(disk.ok()) << disk.status();
            std::vector<TieredStore::Behind> behind;
            behind.push_back({.kind = TierKind::kDisk, .tier = std::move(*disk)});
            served->tier = std::make_unique<TieredStore>(
                TieredStoreOptions{.host = limits, .policy = WritePolicy::kThrough},
                std::move(behind));
            served->Start();
            return std::shared_ptr<Tier>(served, served->client.get());
          }};
}

INSTANTIATE_TEST_SUITE_P(Agent, TierSuite, ::testing::Values(OverMemory(), OverHostAndDisk()),
                         TierMakerName);

std::vector<TierRecord> Ten() {
  std::vector<TierRecord> records;
  for (int n = 1; n <= 10; ++n) records.push_back(RecordOf(n, 0, 0, 1000));
  return records;
}

int CountFound(Tier& tier) {
  int count = 0;
  for (const auto& found : tier.Get(KeysOf(Ten()))) count += found.has_value() ? 1 : 0;
  return count;
}

TEST(Agent, IsMissedWhenItIsGoneAndFoundWhenItIsBack) {
  ServedTier served;
  served.tier = std::make_unique<MemoryTier>(TierLimits());
  served.Start({}, {.down = milliseconds(10)});
  ASSERT_TRUE(served.client->Put(Ten()).ok());
  EXPECT_EQ(CountFound(*served.client), 10);
  EXPECT_EQ(served.client->StatsByTier().size(), 1U);
  served.server.reset();
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(CountFound(*served.client), 0);
  EXPECT_THAT(served.client->Exists(KeysOf(Ten())), Each(false));
  EXPECT_EQ(served.client->Put(Ten()).code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(served.client->Flush().ok());
  EXPECT_EQ(served.client->Stats().records, 0);
  EXPECT_LT(std::chrono::steady_clock::now() - start, milliseconds(1500));
  served.server = Serve(served.directory.path(), *served.tier);
  for (int i = 0; i < 100 && CountFound(*served.client) == 0; ++i) {
    std::this_thread::sleep_for(milliseconds(10));
  }
  EXPECT_EQ(CountFound(*served.client), 10);
}

/// Takes its time.
class SlowTier : public MemoryTier {
 public:
  SlowTier() : MemoryTier({}) {}
  std::vector<std::optional<FoundRecord>> Get(std::span<const RecordKey> keys) override {
    if (slow) std::this_thread::sleep_for(milliseconds(2500));
    return MemoryTier::Get(keys);
  }
  std::atomic<bool> slow = false;
};

TEST(Agent, LateIsAMissAndNoAnswerToTheNextCall) {
  ServedTier served;
  auto slow = std::make_unique<SlowTier>();
  SlowTier& tier = *slow;
  served.tier = std::move(slow);
  served.Start({}, {.deadline = milliseconds(800), .down = milliseconds(1)});
  ASSERT_TRUE(served.client->Put(Ten()).ok());
  tier.slow = true;
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(CountFound(*served.client), 0);
  EXPECT_LT(std::chrono::steady_clock::now() - start, milliseconds(2400));
  tier.slow = false;
  std::this_thread::sleep_for(milliseconds(10));
  const TierRecord other = RecordOf(77, 0, 0, 10);
  ASSERT_TRUE(served.client->Put(std::vector{other}).ok());
  const auto found = served.client->Get(std::vector{other.key});
  ASSERT_TRUE(found[0].has_value());
  EXPECT_EQ(found[0]->bytes, other.bytes);
}

TEST(Agent, LivesAsLongAsItsClientsAndABitLonger) {
  ServedTier served;
  served.tier = std::make_unique<MemoryTier>(TierLimits());
  served.Start({.ttl = milliseconds(500)}, {.renew = milliseconds(50)});
  std::atomic<bool> ended = false;
  std::thread wait([&] {
    EXPECT_TRUE(served.server->Wait().ok());
    ended = true;
  });
  std::this_thread::sleep_for(milliseconds(1200));
  EXPECT_FALSE(ended);
  served.client.reset();
  std::this_thread::sleep_for(milliseconds(100));
  EXPECT_FALSE(ended);
  wait.join();
  EXPECT_EQ(MustOpen(served.directory.path()).Probe().code(), absl::StatusCode::kUnavailable);
}

TEST(Agent, EndsWhenAsked) {
  ServedTier served;
  served.tier = std::make_unique<MemoryTier>(TierLimits());
  served.Start();
  EXPECT_TRUE(served.client->StopAgent().ok());
  EXPECT_TRUE(served.server->Wait().ok());
}

TEST(Agent, ThereIsOneInADirectory) {
  const TemporaryDirectory directory;
  // Longer than the path of a socket may be.
  const std::string path = directory.path() + "/" + std::string(150, 'd');
  MemoryTier tier({});
  const auto server = Serve(path, tier);
  AgentDirectory second = MustOpen(path);
  const absl::Status status = second.Lock();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(status), HasSubstr(path));
  AgentTier client(MustOpen(path), {});
  EXPECT_TRUE(client.Renew().ok());
}

TEST(Agent, IsFoundInTheDirectoryThatThePathNames) {
  namespace fs = std::filesystem;
  const TemporaryDirectory temporary;
  const std::string path = temporary.path() + "/here";
  MemoryTier second({});
  AgentDirectory held = MustOpen(path);
  ASSERT_EQ(held.Lock(), absl::OkStatus());
  EXPECT_EQ(held.CheckLocked(), absl::OkStatus());
  EXPECT_TRUE(held.IsInPlace());
  AgentTier client(MustOpen(path), {.down = milliseconds(10)});
  fs::rename(path, temporary.path() + "/away");
  EXPECT_TRUE(absl::IsDataLoss(held.CheckLocked()));
  EXPECT_FALSE(held.IsInPlace());
  EXPECT_FALSE(held.IsRemoved());
  EXPECT_FALSE(client.DirectoryIsRemoved());
  EXPECT_FALSE(client.Renew().ok());
  EXPECT_FALSE(fs::exists(path)) << "who looks for an agent makes no directory";
  fs::remove_all(temporary.path() + "/away");
  EXPECT_TRUE(held.IsRemoved());
  EXPECT_TRUE(client.DirectoryIsRemoved());
  const auto server = Serve(path, second);
  EXPECT_TRUE(absl::IsDataLoss(held.CheckLocked()));
  EXPECT_THAT(Message(held.CheckLocked()), HasSubstr("agent.lock was replaced"));
  std::this_thread::sleep_for(milliseconds(20));
  ASSERT_EQ(client.Put(Ten()), absl::OkStatus());
  EXPECT_EQ(CountFound(second), 10);
  EXPECT_FALSE(client.DirectoryIsRemoved());
}

TEST(Agent, WhatIsInItsWayIsPutAside) {
  const TemporaryDirectory directory;
  const std::string path = directory.path() + "/here";
  std::ofstream(path) << "mine";
  MemoryTier memory({});
  {
    AgentDirectory held = MustOpen(path);
    std::filesystem::create_directory(path + "/agent.sock");
    EXPECT_EQ(held.CheckLock(), absl::OkStatus());
  }
  {
    const auto server = Serve(path, memory);
    EXPECT_EQ(MustOpen(path).Probe(), absl::OkStatus());
    EXPECT_EQ(MustOpen(path).CheckLock(), absl::OkStatus());
    server->Stop();
    EXPECT_TRUE(server->Wait().ok());
  }
  EXPECT_TRUE(std::filesystem::is_regular_file(path + ".damaged-1"));
  EXPECT_TRUE(std::filesystem::is_directory(path + "/agent.sock.damaged-1"));
  // Its lock is not, since somebody may have that.
  std::filesystem::remove(path + "/agent.lock");
  std::filesystem::create_directory(path + "/agent.lock");
  EXPECT_THAT(Message(MustOpen(path).CheckLock()), HasSubstr("agent.lock: it is a folder"));
  EXPECT_FALSE(MustOpen(path).Lock().ok());
}

TEST(Agent, MalformedFramesGetErrorsAndEndNothing) {
  ServedTier served;
  served.tier = std::make_unique<MemoryTier>(TierLimits());
  served.Start();
  const AgentDirectory directory = MustOpen(served.directory.path());
  zmq::context_t context;
  zmq::socket_t socket(context, zmq::socket_type::dealer);
  SetSafeOptions(socket, {});
  socket.connect(directory.address());
  const auto ask = [&](const AgentParts& parts) {
    EXPECT_EQ(TrySend(socket, "", parts), SendOutcome::kSent);
    socket.set(zmq::sockopt::rcvtimeo, 5000);
    zmq::message_t message;
    EXPECT_TRUE(socket.recv(message).has_value());
    auto answer = DecodeAgentFrame({std::vector(BytesOf(message).begin(), BytesOf(message).end())});
    EXPECT_TRUE(answer.ok()) << answer.status();
    return *answer;
  };
  const AgentParts put = EncodeAgentFrame({.call = 7, .message = AgentPut{.records = Ten()}});
  ASSERT_EQ(put.size(), 11U);
  const SharedBytes& fields = put[0];
  SplitMix random(1);
  for (int i = 0; i < 300; ++i) {
    AgentParts damaged = put;
    if (i % 4 == 0) {
      damaged[0] = SharedBytes(fields.span().first(random.Below(fields.size())), nullptr);
    } else if (i % 4 == 3) {
      damaged.resize(1 + random.Below(10));
    } else {
      testing::SetByte(damaged[0], random.Below(i % 4 == 1 ? 20 : fields.size()),
                       static_cast<std::byte>(random.Next()));
    }
    ask(damaged);
  }
  const AgentFrame refused = ask({SharedBytes(fields.span().first(30), nullptr)});
  EXPECT_EQ(refused.call, 7U);
  ASSERT_TRUE(std::holds_alternative<AgentStatus>(refused.message));
  EXPECT_EQ(std::get<AgentStatus>(refused.message).status.code(),
            absl::StatusCode::kInvalidArgument);
  // Answers are no requests, and messages with parts that nobody names are none either.
  const AgentFrame answer = ask(EncodeAgentFrame({.call = 8, .message = AgentStats()}));
  EXPECT_FALSE(std::get<AgentStatus>(answer.message).status.ok());
  socket.send(zmq::buffer("a", 1), zmq::send_flags::sndmore);
  EXPECT_FALSE(std::get<AgentStatus>(ask({SharedBytes()}).message).status.ok());
  ASSERT_TRUE(served.client->Put(Ten()).ok());
  EXPECT_EQ(CountFound(*served.client), 10);
}

AgentPeer PeerOf(const std::string& host) {
  return {.host = host, .endpoint = "tcp://10.0.0.1:5", .public_key = std::string(40, '1')};
}

TEST(AgentCodec, RoundTripsEveryKind) {
  const TierStats stats{.records = 1,
                        .blocks = 2,
                        .bytes = 3,
                        .bytes_limit = 4,
                        .hits = 5,
                        .misses = 6,
                        .evicted = 7,
                        .refused = 8,
                        .dropped = 9};
  FoundRecord found{.bytes = Ten()[0].bytes, .from = TierKind::kRemote};
  found.block = Ten()[0].block;
  found.before = Ten()[0].before;
  found.tenant = 12;
  const ListedBlock listed{.block = Ten()[0].block,
                           .before = Ten()[1].block,
                           .tenant = 3,
                           .last_use = 4,
                           .records = {{.key = Ten()[0].key, .bytes = 5, .tiers = 3}}};
  const JournalPosition here = NewJournal().Branched();
  const JournalChange change{.kind = JournalChange::Kind::kDeleteRange, .place = "C", .bytes = "D"};
  const JournalPart part{.session = 3,
                         .number = 1,
                         .last = true,
                         .overwrite = false,
                         .at = here,
                         .records = {{"I", "identity"}, {"J", ""}}};
  JournalCopy copy;
  copy.state = {1};
  copy.position = here;
  JournalCopy damaged;
  damaged.condition = JournalCopy::Condition::kDamaged;
  const std::vector<AgentMessage> messages = {
      AgentPut{.records = Ten()},
      AgentGet{.keys = KeysOf(Ten())},
      AgentExists{.keys = KeysOf(Ten())},
      AgentUse{.keys = KeysOf(Ten())},
      AgentFlush(),
      AgentErase{.blocks = {Ten()[0].block}},
      AgentStatsQuery(),
      AgentRenew(),
      AgentStop(),
      AgentListen{.address = "10.0.0.1"},
      AgentIntroduction{.peers = {PeerOf("a"), PeerOf("b")}, .copies = 2},
      AgentPing(),
      AgentListQuery{.after = Ten()[0].block, .most = 5},
      AgentPeekQuery{.tier = TierKind::kDisk, .keys = KeysOf(Ten())},
      AgentDrop{.keys = KeysOf(Ten())},
      AgentStatus{.status = ResourceExhausted("full")},
      AgentFound{.records = {std::nullopt, found}},
      AgentExisting{.where = {TierKind::kDisk, std::nullopt, TierKind::kRemote}},
      AgentStats{.all = stats, .by_tier = {{TierKind::kDisk, stats}}},
      AgentIdentity{.self = PeerOf("c")},
      AgentListing{.blocks = {listed, {}}},
      AgentPeeked{.records = {{},
                              {.state = PeekedRecord::State::kThere, .bytes = Ten()[0].bytes},
                              {.state = PeekedRecord::State::kUnreadable, .bytes = {}}}},
      AgentCopyFind{.state = {1}, .patient = true},
      AgentCopyAppend{.to = "a", .state = {1}, .entries = {{.at = here, .changes = {change}}}},
      AgentCopyPart{.to = "a", .state = {1}, .part = part},
      AgentCopyRead{.to = "a", .state = {1}, .behind = "C"},
      AgentCopyErase{.state = {1}, .at = here, .ranges = {{"C", "D"}}},
      AgentCopyFence{.state = {1}, .at = here},
      AgentCopies{
          .self = "a", .keeper = "b", .copies = {{"b", copy}, {"c", damaged}}, .silent = {"d"}},
      AgentCopyAt{.position = here},
      AgentCopyPage{.page = {.at = here, .more = true, .records = part.records}}};
  ASSERT_EQ(messages.size(), std::variant_size_v<AgentMessage>);
  for (size_t i = 0; i < messages.size(); ++i) {
    ASSERT_EQ(messages[i].index(), i);
    const AgentParts parts = EncodeAgentFrame({.call = 100 + i, .message = messages[i]});
    EXPECT_EQ(CallOfFrame(parts), 100 + i);
    const auto decoded = DecodeAgentFrame(parts);
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_EQ(decoded->call, 100 + i);
    EXPECT_EQ(decoded->message.index(), i);
    EXPECT_EQ(EncodeAgentFrame(*decoded), parts);
    for (size_t p = 0; p < parts.size(); ++p) {
      AgentParts changed = parts;
      for (size_t size = 0; size < parts[p].size(); ++size) {
        changed[p] = SharedBytes(parts[p].span().first(size), nullptr);
        ASSERT_FALSE(DecodeAgentFrame(changed).ok()) << i << ": " << size << " of part " << p;
      }
      changed.resize(p);
      ASSERT_FALSE(DecodeAgentFrame(changed).ok()) << i << ": " << p << " parts";
    }
    AgentParts more = parts;
    more.emplace_back();
    ASSERT_FALSE(DecodeAgentFrame(more).ok()) << i;
  }
  const auto put = DecodeAgentFrame(EncodeAgentFrame({.call = 1, .message = messages[0]}));
  EXPECT_EQ(std::get<AgentPut>(put->message).records[3].bytes, Ten()[3].bytes);
  const auto met = DecodeAgentFrame(EncodeAgentFrame({.call = 1, .message = messages[10]}));
  EXPECT_EQ(std::get<AgentIntroduction>(met->message).peers[1], PeerOf("b"));
  EXPECT_EQ(std::get<AgentIntroduction>(met->message).copies, 2U);
  const auto got = DecodeAgentFrame(EncodeAgentFrame({.call = 1, .message = messages[16]}));
  EXPECT_EQ(std::get<AgentFound>(got->message).records[1]->tenant, 12U);
  const auto list = DecodeAgentFrame(EncodeAgentFrame({.call = 1, .message = messages[20]}));
  EXPECT_EQ(std::get<AgentListing>(list->message).blocks[0], listed);
  const auto status = DecodeAgentFrame(EncodeAgentFrame({.call = 1, .message = messages[15]}));
  EXPECT_EQ(std::get<AgentStatus>(status->message).status, ResourceExhausted("full"));
}

TEST(AgentCodec, SaysWhatIsWrong) {
  AgentParts parts = EncodeAgentFrame({.call = 1, .message = AgentFlush()});
  testing::SetByte(parts[0], 0, std::byte{99});
  EXPECT_THAT(Message(DecodeAgentFrame(parts).status()), HasSubstr("version 99"));
  testing::SetByte(parts[0], 0, std::byte{kAgentVersion});
  testing::SetByte(parts[0], 1, std::byte{99});
  EXPECT_THAT(Message(DecodeAgentFrame(parts).status()), HasSubstr("99 is no kind of message"));
  parts = EncodeAgentFrame({.call = 1, .message = AgentGet()});
  testing::SetByte(parts[0], 12, std::byte{0xff});
  EXPECT_THAT(Message(DecodeAgentFrame(parts).status()), HasSubstr("keys"));
  parts = EncodeAgentFrame({.call = 1, .message = AgentPut{.records = Ten()}});
  std::swap(parts[1], parts[0]);
  EXPECT_FALSE(DecodeAgentFrame(parts).ok());
  std::swap(parts[1], parts[0]);
  parts.pop_back();
  EXPECT_THAT(Message(DecodeAgentFrame(parts).status()), HasSubstr("are not the next part"));
  parts.resize(13);
  EXPECT_FALSE(DecodeAgentFrame(parts).ok());
}

TEST(AgentCodec, TakesNoPeersThatAreNone) {
  const auto decoded = [](const AgentPeer& peer) {
    return DecodeAgentFrame(
               EncodeAgentFrame({.call = 1, .message = AgentIntroduction{.peers = {peer}}}))
        .status();
  };
  EXPECT_TRUE(decoded(PeerOf("a")).ok());
  for (const char* host : {"", "..", ".a", "a/b", "a b", "a\n"}) {
    EXPECT_FALSE(decoded(PeerOf(host)).ok()) << host;
  }
  AgentPeer peer = PeerOf("a");
  peer.endpoint = "ipc:///tmp/x";
  EXPECT_THAT(Message(decoded(peer)), HasSubstr("tcp://"));
  peer = PeerOf("a");
  peer.public_key[3] = '~';
  EXPECT_THAT(Message(decoded(peer)), HasSubstr("key"));
}

}  // namespace
}  // namespace tandem::kv_store
