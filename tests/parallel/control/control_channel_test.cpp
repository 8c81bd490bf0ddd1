#include "parallel/control/control_channel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "parallel/communicators/thread_communicator.h"
#include "parallel/control/agreement.h"
#include "parallel/control/control_address.h"
#include "parallel/control/control_frames.h"
#include "parallel/control/thread_control.h"
#include "parallel/control/zmq_control.h"
#include "parallel/control/zmq_control_follower.h"
#include "parallel/control/zmq_control_leader.h"
#include "tests/parallel/communicators/thread_ranks.h"
#include "tests/support/hex.h"

namespace tandem::parallel {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<std::byte> Bytes(std::initializer_list<int> values) {
  std::vector<std::byte> bytes;
  for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

/// Keeps events for a test to wait for.
class EventLog {
 public:
  ControlEvents Events() {
    return {.on_acknowledgement =
                [this](const Acknowledgement& acknowledgement) {
                  const std::lock_guard lock(mutex_);
                  acknowledgements_.push_back(acknowledgement);
                  changed_.notify_all();
                },
            .on_report =
                [this](const RecordReport& report) {
                  const std::lock_guard lock(mutex_);
                  reports_.push_back(report);
                  changed_.notify_all();
                },
            .on_lost =
                [this](const absl::Status& why) {
                  const std::lock_guard lock(mutex_);
                  lost_.push_back(Message(why));
                  changed_.notify_all();
                }};
  }
  bool WaitForAcknowledgements(size_t count) {
    return WaitFor([&] { return acknowledgements_.size() >= count; });
  }
  bool WaitForReports(size_t count) {
    return WaitFor([&] { return reports_.size() >= count; });
  }
  std::vector<RecordReport> reports() {
    const std::lock_guard lock(mutex_);
    return reports_;
  }
  bool WaitForLoss() {
    return WaitFor([&] { return !lost_.empty(); });
  }
  std::vector<Acknowledgement> acknowledgements() {
    const std::lock_guard lock(mutex_);
    return acknowledgements_;
  }
  std::vector<std::string> lost() {
    const std::lock_guard lock(mutex_);
    return lost_;
  }

 private:
  bool WaitFor(const std::function<bool()>& reached) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(20), reached);
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Acknowledgement> acknowledgements_;
  std::vector<RecordReport> reports_;
  std::vector<std::string> lost_;
};

using MakeChannel = ThreadControl (*)(int ranks);

std::vector<std::string> Hosts(int ranks) {
  std::vector<std::string> hosts;
  for (int rank = 0; rank < ranks; ++rank) hosts.push_back(fmt::format("n{}", rank));
  return hosts;
}

ThreadControl OverThreads(int ranks) { return MakeThreadControl(Hosts(ranks)); }

ThreadControl OverZmq(int ranks) {
  ThreadControl control;
  control.followers.resize(static_cast<size_t>(ranks) - 1);
  ThreadWorldOptions world;
  world.hosts = Hosts(ranks);
  const auto statuses = RunRanks(MakeThreadWorld(ranks, world), [&](Communicator& own) {
    absl::StatusOr<ControlEnd> end = ConnectZmqControl({}, own);
    if (!end.ok()) return end.status();
    if (own.rank() == 0) {
      control.leader = std::move(end->leader);
    } else {
      control.followers[static_cast<size_t>(own.rank()) - 1] = std::move(end->follower);
    }
    return own.Barrier();
  });
  for (const absl::Status& status : statuses) EXPECT_TRUE(status.ok()) << status;
  return control;
}

struct ChannelKind {
  const char* name;
  MakeChannel make;
};

/// The one suite over both implementations.
class ControlChannelTest : public ::testing::TestWithParam<ChannelKind> {
 protected:
  ThreadControl Make(int ranks) { return GetParam().make(ranks); }
};

TEST_P(ControlChannelTest, ReportsLeaveFromAnyThreadWhileNoPlanComes) {
  EventLog log;  // outlives the channel
  ThreadControl control = Make(3);
  control.leader->Listen(log.Events());
  std::vector<std::thread> threads;
  for (auto& follower : control.followers) {
    threads.emplace_back([&] { EXPECT_FALSE(follower->Receive().ok()); });
    for (uint64_t part = 0; part < 2; ++part) {
      threads.emplace_back([&, part] {
        for (uint64_t i = 0; i < 50; ++i) {
          RecordReport report;
          report.kind = RecordReport::Kind::kFetched;
          report.id = part * 50 + i;
          report.from = {kv_store::TierKind::kDisk, kv_store::TierKind::kHost};
          report.counts.put = 7;
          follower->Report(report);
        }
      });
    }
  }
  EXPECT_TRUE(log.WaitForReports(200));
  std::vector<std::vector<uint64_t>> ids(3);
  for (const RecordReport& report : log.reports()) {
    ids[static_cast<size_t>(report.rank)].push_back(report.id);
    EXPECT_EQ(report.from.size(), 2U);
    EXPECT_EQ(report.counts.put, 7U);
  }
  for (const size_t rank : {1U, 2U}) {
    std::sort(ids[rank].begin(), ids[rank].end());
    ASSERT_EQ(ids[rank].size(), 100U);
    for (uint64_t i = 0; i < 100; ++i) EXPECT_EQ(ids[rank][i], i);
  }
  control.leader->Close();
  for (std::thread& thread : threads) thread.join();
}

TEST_P(ControlChannelTest, PlansArriveInOrderAndAcknowledgementsReturn) {
  EventLog log;  // outlives the channel
  ThreadControl control = Make(4);
  control.leader->Listen(log.Events());
  constexpr int kPlans = 200;
  std::vector<std::thread> threads;
  std::vector<int> good(3, 0);
  for (size_t f = 0; f < 3; ++f) {
    threads.emplace_back([&, f] {
      for (int i = 0; i < kPlans; ++i) {
        const auto plan = control.followers[f]->Receive();
        if (!plan.ok() || *plan != Bytes({i, 7})) return;
        Digest digest{};
        digest[0] = static_cast<uint8_t>(f + 1);
        const auto step = static_cast<uint64_t>(i);
        if (control.followers[f]->Acknowledge(step, digest, 1000 * step + f + 1).ok()) ++good[f];
      }
    });
  }
  for (int i = 0; i < kPlans; ++i) ASSERT_TRUE(control.leader->Send(Bytes({i, 7})).ok());
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(good, ElementsAre(kPlans, kPlans, kPlans));
  ASSERT_TRUE(log.WaitForAcknowledgements(3 * kPlans));
  std::vector<uint64_t> next(4, 0);
  for (const Acknowledgement& acknowledgement : log.acknowledgements()) {
    const auto rank = static_cast<size_t>(acknowledgement.rank);
    EXPECT_EQ(acknowledgement.step, next[rank]++);
    EXPECT_EQ(acknowledgement.reduce_nanoseconds, 1000 * acknowledgement.step + rank);
    EXPECT_EQ(acknowledgement.digest[0], rank);
  }
  EXPECT_TRUE(log.lost().empty());
}

// ThreadSanitizer looks at every word that libzmq hands over, and at its suppressions for each.
#ifdef __SANITIZE_THREAD__
constexpr size_t kLargePlanBytes = size_t{64} << 10;
#else
constexpr size_t kLargePlanBytes = size_t{5} << 20;
#endif

/// A follower that looks for plans and does not wait for them gets them all, in order.
TEST_P(ControlChannelTest, PlansAreTakenWhereTheyAreThere) {
  ThreadControl control = Make(2);
  ControlFollower& follower = *control.followers[0];
  auto taken = follower.TryReceive();
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_FALSE(taken->has_value());
  for (int plan = 1; plan <= 6; ++plan) {
    ASSERT_TRUE(control.leader->Send(Bytes({plan, 9})).ok());
    if (plan % 3 == 0) {
      const auto received = follower.Receive();
      ASSERT_TRUE(received.ok()) << received.status();
      EXPECT_EQ(*received, Bytes({plan, 9}));
      continue;
    }
    do {
      taken = follower.TryReceive();
      ASSERT_TRUE(taken.ok()) << taken.status();
    } while (!taken->has_value());
    EXPECT_EQ(**taken, Bytes({plan, 9}));
  }
  control.leader->Close();
  taken = follower.TryReceive();
  EXPECT_TRUE(taken.ok() && !taken->has_value());
  EXPECT_FALSE(follower.Receive().ok());
}

TEST_P(ControlChannelTest, LargePlanArrivesWhole) {
  ThreadControl control = Make(2);
  std::vector<std::byte> plan(kLargePlanBytes, std::byte{3});
  plan.back() = std::byte{9};
  ASSERT_TRUE(control.leader->Send(plan).ok());
  const auto received = control.followers[0]->Receive();
  ASSERT_TRUE(received.ok()) << received.status();
  EXPECT_TRUE(*received == plan);
}

TEST_P(ControlChannelTest, LostFollowerIsNamed) {
  EventLog log;  // outlives the channel
  ThreadControl control = Make(3);
  control.leader->Listen(log.Events());
  control.followers[1].reset();
  ASSERT_TRUE(log.WaitForLoss());
  EXPECT_THAT(log.lost(), ElementsAre(HasSubstr("rank 2 on host n2")));
  // The other one still gets plans.
  ASSERT_TRUE(control.leader->Send(Bytes({1})).ok());
  EXPECT_TRUE(control.followers[0]->Receive().ok());
}

TEST_P(ControlChannelTest, LossBeforeListeningIsKept) {
  EventLog log;  // outlives the channel
  ThreadControl control = Make(2);
  control.followers[0].reset();
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  control.leader->Listen(log.Events());
  ASSERT_TRUE(log.WaitForLoss());
  EXPECT_THAT(log.lost()[0], HasSubstr("rank 1 on host n1"));
}

TEST_P(ControlChannelTest, FollowerTellsWhyItFails) {
  EventLog log;  // outlives the channel
  ThreadControl control = Make(2);
  control.leader->Listen(log.Events());
  control.followers[0]->Fail(Internal("its disk melted"));
  control.followers[0].reset();
  ASSERT_TRUE(log.WaitForLoss());
  EXPECT_THAT(log.lost()[0], HasSubstr("rank 1 on host n1 failed: its disk melted"));
}

TEST_P(ControlChannelTest, AFollowerThatNamesItselfIsNamedOnce) {
  EventLog log;  // outlives the channel
  ThreadControl control = Make(2);
  control.leader->Listen(log.Events());
  control.followers[0]->Fail(Unavailable("rank 1 on host n1 in layer 2: the link is down"));
  control.followers[0].reset();
  ASSERT_TRUE(log.WaitForLoss());
  EXPECT_EQ(log.lost()[0], "rank 1 on host n1 in layer 2: the link is down");
}

TEST_P(ControlChannelTest, LastPlanArrivesAndThenTheLossOfRankZero) {
  ThreadControl control = Make(2);
  ASSERT_TRUE(control.leader->Send(Bytes({5})).ok());
  // Closing waits until followers have read, for a while.
  std::thread closing([&] { control.leader->Close(); });
  const auto last = control.followers[0]->Receive();
  closing.join();
  ASSERT_TRUE(last.ok()) << last.status();
  EXPECT_EQ(*last, Bytes({5}));
  EXPECT_FALSE(control.leader->Send(Bytes({6})).ok());
  const auto none = control.followers[0]->Receive();
  EXPECT_EQ(none.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Message(none.status()), HasSubstr("rank 0 on host n0"));
}

INSTANTIATE_TEST_SUITE_P(Kinds, ControlChannelTest,
                         ::testing::Values(ChannelKind{"Threads", OverThreads},
                                           ChannelKind{"Zmq", OverZmq}),
                         [](const auto& kind) { return kind.param.name; });

TEST(ZmqControl, RefusesStrangers) {
  const kv_store::CurveKeys leader_keys = kv_store::MakeCurveKeys();
  const kv_store::CurveKeys rank_keys = kv_store::MakeCurveKeys();
  const kv_store::CurveKeys stranger_keys = kv_store::MakeCurveKeys();
  auto leader =
      ZmqControlLeader::Create({.hosts = {"n0", "n1", "n2"},
                                .public_keys = {leader_keys.public_key, rank_keys.public_key,
                                                kv_store::MakeCurveKeys().public_key},
                                .keys = leader_keys,
                                .endpoints = {"tcp://127.0.0.1:*"},
                                .limits = {}});
  ASSERT_TRUE(leader.ok()) << leader.status();
  const auto connect = [&](int rank, const kv_store::CurveKeys& keys,
                           const std::string& leader_key) {
    return ZmqControlFollower::Connect({.rank = rank,
                                        .leader_host = "n0",
                                        .leader_key = leader_key,
                                        .keys = keys,
                                        .endpoints = (*leader)->endpoints(),
                                        .patience = std::chrono::milliseconds(300),
                                        .limits = {}})
        .status();
  };
  EXPECT_EQ(connect(1, stranger_keys, leader_keys.public_key).code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(connect(1, rank_keys, stranger_keys.public_key).code(), absl::StatusCode::kUnavailable)
      << "a false rank 0";
  EXPECT_EQ(connect(2, rank_keys, leader_keys.public_key).code(), absl::StatusCode::kUnavailable)
      << "a rank that calls itself another";
  EXPECT_TRUE(connect(1, rank_keys, leader_keys.public_key).ok());
  const absl::Status missing = (*leader)->WaitForFollowers(std::chrono::milliseconds(10));
  EXPECT_THAT(Message(missing), HasSubstr("rank 2 on host n2 did not connect"));
}

constexpr kv_store::SocketLimits kFast{.heartbeat = std::chrono::milliseconds(50),
                                       .silence = std::chrono::milliseconds(1000)};

/// Rank 0's end of a world of two, and what the other end needs.
struct PairOfRanks {
  explicit PairOfRanks(EventLog& log, ProgressBoard* board = nullptr) {
    auto opened =
        ZmqControlLeader::Create({.hosts = {"n0", "n1"},
                                  .public_keys = {leader_keys.public_key, follower_keys.public_key},
                                  .keys = leader_keys,
                                  .endpoints = {"tcp://127.0.0.1:*"},
                                  .limits = kFast,
                                  .board = board});
    EXPECT_TRUE(opened.ok()) << opened.status();
    leader = *std::move(opened);
    leader->Listen(log.Events());
  }
  std::unique_ptr<ZmqControlFollower> Follower(const ProgressBoard* board = nullptr) {
    auto follower = ZmqControlFollower::Connect({.rank = 1,
                                                 .leader_host = "n0",
                                                 .leader_key = leader_keys.public_key,
                                                 .keys = follower_keys,
                                                 .endpoints = leader->endpoints(),
                                                 .limits = kFast,
                                                 .board = board});
    EXPECT_TRUE(follower.ok()) << follower.status();
    return *std::move(follower);
  }
  /// A rank 1 that says hello, and after it nothing.
  void MuteFollower() {
    kv_store::SetSafeOptions(mute, kFast);
    kv_store::BeCurveClient(mute, follower_keys, leader_keys.public_key);
    mute.set(zmq::sockopt::routing_id, RoutingIdOf(1));
    mute.connect(leader->endpoints()[0]);
    kv_store::TrySend(mute, "", FrameOf(ControlFrame::kHello, ControlHello{.rank = 1}));
    EXPECT_TRUE(leader->WaitForFollowers(std::chrono::seconds(20)).ok());
  }

  kv_store::CurveKeys leader_keys = kv_store::MakeCurveKeys();
  kv_store::CurveKeys follower_keys = kv_store::MakeCurveKeys();
  std::unique_ptr<ZmqControlLeader> leader;
  zmq::context_t context;
  zmq::socket_t mute{context, zmq::socket_type::dealer};
};

TEST(ZmqControl, AFollowerThatIsSilentIsNamed) {
  EventLog log;  // outlives the channel
  PairOfRanks pair(log);
  pair.MuteFollower();
  ASSERT_TRUE(log.WaitForLoss());
  EXPECT_THAT(log.lost(), ElementsAre(HasSubstr("rank 1 on host n1 has sent nothing for 1.")));
}

TEST(ZmqControl, AFollowerInALongStepIsNotSilent) {
  EventLog log;  // outlives the channel
  PairOfRanks pair(log);
  const auto follower = pair.Follower();
  std::this_thread::sleep_for(3 * kFast.silence);
  EXPECT_THAT(log.lost(), ElementsAre());
  // Nor is rank 0 when it comes back.
  ASSERT_TRUE(pair.leader->Send(Bytes({1})).ok());
  EXPECT_TRUE(follower->Receive().ok());
  std::thread receiving([&] { EXPECT_TRUE(follower->Receive().ok()); });
  std::this_thread::sleep_for(3 * kFast.silence);
  EXPECT_THAT(log.lost(), ElementsAre());
  ASSERT_TRUE(pair.leader->Send(Bytes({1})).ok());
  receiving.join();
}

TEST(ZmqControl, ARankZeroThatIsSilentIsNamed) {
  const kv_store::CurveKeys leader_keys = kv_store::MakeCurveKeys();
  const kv_store::CurveKeys follower_keys = kv_store::MakeCurveKeys();
  zmq::context_t context;
  kv_store::AllowList allowed(context, {{follower_keys.public_key, "rank-1"}});
  zmq::socket_t router(context, zmq::socket_type::router);
  kv_store::SetSafeOptions(router, kFast);
  kv_store::BeCurveServer(router, leader_keys);
  router.bind("tcp://127.0.0.1:*");
  absl::Status status;
  std::atomic<bool> ended = false;
  std::thread follower([&] {
    auto end = ZmqControlFollower::Connect({.rank = 1,
                                            .leader_host = "n0",
                                            .leader_key = leader_keys.public_key,
                                            .keys = follower_keys,
                                            .endpoints = {router.get(zmq::sockopt::last_endpoint)},
                                            .limits = kFast});
    status = end.ok() ? (*end)->Receive().status() : end.status();
    ended = true;
  });
  bool welcomed = false;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!ended) {
    if (std::chrono::steady_clock::now() > deadline) {
      router.close();  // it says something else, then
      welcomed = true;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    allowed.Answer();
    if (welcomed) continue;
    if (const auto hello = kv_store::TryReceive(router); !hello.empty()) {
      kv_store::TrySend(router, hello[0].to_string_view(), FrameOf(ControlFrame::kWelcome));
      welcomed = true;
    }
  }
  follower.join();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Message(status), HasSubstr("rank 0 on host n0 has sent nothing for 2."));
}

TEST(ZmqControl, AStalledCollectiveIsTheFaultOfWhoIsSilent) {
  EventLog log;  // outlives the channel
  PairOfRanks pair(log);
  pair.MuteFollower();
  pair.leader->Stalled(Unavailable("rank 0 on host n0 has waited"));
  ASSERT_TRUE(log.WaitForLoss());
  EXPECT_THAT(log.lost()[0], HasSubstr("rank 1 on host n1 has sent nothing for 0."));
}

// Whoever tells first: each process knows of itself alone.
TEST(ZmqControl, AStalledCollectiveIsJudgedByWhatAllRanksSay) {
  for (const bool follower_is_late : {false, true}) {
    for (const bool by_follower : {false, true}) {
      EventLog log;  // outlives the channel
      ProgressBoard ours({"n0", "n1"});
      ProgressBoard theirs({"n0", "n1"});
      PairOfRanks pair(log, &ours);
      const auto follower = pair.Follower(&theirs);
      constexpr core::StepPhase kBefore = {4, 1, core::StepPhase::Kind::kAttention};
      constexpr core::StepPhase kPhase = {4, 1, core::StepPhase::Kind::kFeedForward};
      for (ProgressBoard* board : {&ours, &theirs}) {
        const int rank = board == &ours ? 0 : 1;
        board->Enter(rank, kBefore);
        board->Leave(rank);
        if (follower_is_late != (rank == 1)) board->Enter(rank, kPhase);
      }
      const absl::Status why = Unavailable("nothing is known of the other");
      if (by_follower) {
        follower->Stalled(why);
      } else {
        pair.leader->Stalled(why);
      }
      ASSERT_TRUE(log.WaitForLoss());
      const int late = follower_is_late ? 1 : 0;
      EXPECT_THAT(
          log.lost()[0],
          AllOf(HasSubstr(fmt::format("rank {0} on host n{0} has waited", 1 - late)),
                HasSubstr(fmt::format("; rank {0} on host n{0} has not come, it left step 4, "
                                      "layer 1, attention",
                                      late))));
    }
  }
}

// A rank whose link breaks since another one died gives up first, perhaps.
TEST(ZmqControl, WhoIsGoneIsNamedBeforeWhoGaveUpOverIt) {
  EventLog log;  // outlives the channel
  ThreadControl control = OverZmq(3);
  control.leader->Listen(log.Events());
  std::thread failing([&] { control.followers[0]->Fail(Unavailable("a rank has left")); });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  control.followers[1].reset();
  failing.join();
  ASSERT_TRUE(log.WaitForLoss());
  EXPECT_THAT(log.lost(), ElementsAre("rank 2 on host n2 died or was disconnected"));
}

TEST_P(ControlChannelTest, AStalledCollectiveIsToldAsItIsWhereNobodyIsSilent) {
  for (const bool by_follower : {false, true}) {
    EventLog log;  // outlives the channel
    ThreadControl control = Make(2);
    control.leader->Listen(log.Events());
    const absl::Status why = Unavailable("rank 0 on host n0 has waited");
    if (by_follower) {
      control.followers[0]->Stalled(why);
    } else {
      control.leader->Stalled(why);
    }
    ASSERT_TRUE(log.WaitForLoss());
    EXPECT_THAT(log.lost(), ElementsAre("rank 0 on host n0 has waited"));
  }
}

TEST(ZmqControl, UnknownInterfaceIsAnErrorOfAllRanks) {
  const auto statuses = RunRanks(MakeThreadWorld(2), [](Communicator& world) {
    ZmqControlOptions options;
    options.interface = "no-such-interface";
    return ConnectZmqControl(options, world).status();
  });
  for (const absl::Status& status : statuses) {
    EXPECT_THAT(Message(status), HasSubstr("rank 0 on host"));
    EXPECT_THAT(Message(status), HasSubstr("\"no-such-interface\" is neither"));
  }
}

NetworkAddress Address(const char* interface, std::array<uint8_t, 4> bytes, int prefix) {
  NetworkAddress address;
  address.interface = interface;
  address.text = fmt::format("{}.{}.{}.{}", bytes[0], bytes[1], bytes[2], bytes[3]);
  std::copy(bytes.begin(), bytes.end(), address.bytes.begin());
  address.prefix = prefix;
  return address;
}

std::vector<std::string> Texts(const absl::StatusOr<std::vector<NetworkAddress>>& addresses) {
  std::vector<std::string> texts;
  if (!addresses.ok()) return {Message(addresses.status())};
  for (const auto& address : *addresses) texts.push_back(address.text);
  return texts;
}

TEST(ControlFrames, TheBytesStayAsTheyWere) {
  using testing::Hex;
  EXPECT_EQ(Hex(FrameOf(ControlFrame::kHello, ControlHello{.rank = 3})), "01050003000000");
  EXPECT_EQ(Hex(FrameOf(ControlFrame::kWelcome)), "02");
  EXPECT_EQ(Hex(FrameOf(ControlFrame::kPing, std::optional<ControlProgress>())), "0400");
  EXPECT_EQ(
      Hex(FrameOf(ControlFrame::kPing, std::optional(ControlProgress{
                                           .phase = {5, 2, core::StepPhase::Kind::kFeedForward},
                                           .collectives = 7,
                                           .waiting = true,
                                           .milliseconds = 9}))),
      "0401050000000000000002000000010700000000000000010900000000000000");
  const Acknowledgement acknowledgement{
      .rank = 3, .step = 5, .digest = testing::Counted<Digest>(1), .reduce_nanoseconds = 0x11};
  EXPECT_EQ(Hex(FrameOf(ControlFrame::kAck, acknowledgement)),
            "0505000000000000000102030405060708090a0b0c0d0e0f101100000000000000");
  EXPECT_EQ(Hex(FrameOf(ControlFrame::kFailed, ControlFailure{.why = "why"})), "0603000000776879");
}

TEST(ControlAddress, PrefersTheNetworkThatAllHostsShare) {
  const auto bridge = Address("docker0", {172, 17, 0, 1}, 16);
  const std::vector<NetworkAddress> own = {bridge, Address("eth0", {10, 0, 0, 1}, 24),
                                           Address("ib0", {192, 168, 5, 1}, 24)};
  const std::vector<NetworkAddress> n1 = {bridge, Address("eth0", {10, 0, 0, 2}, 24),
                                          Address("ib0", {192, 168, 5, 2}, 24)};
  const std::vector<NetworkAddress> n2 = {bridge, Address("eth0", {10, 0, 0, 3}, 24)};
  EXPECT_THAT(Texts(ChooseControlAddresses("", own, {n1})), ElementsAre("10.0.0.1", "192.168.5.1"));
  EXPECT_THAT(Texts(ChooseControlAddresses("", own, {n1, n2})), ElementsAre("10.0.0.1"));
  EXPECT_THAT(Texts(ChooseControlAddresses("ib0", own, {n1, n2})), ElementsAre("192.168.5.1"));
  EXPECT_THAT(Texts(ChooseControlAddresses("10.0.0.1", own, {n1})), ElementsAre("10.0.0.1"));
  EXPECT_THAT(Texts(ChooseControlAddresses("eth7", own, {n1})), ElementsAre(HasSubstr("ib0")));
  // Only a router between them: any address may do.
  const std::vector<NetworkAddress> far = {Address("eth0", {10, 9, 0, 2}, 24)};
  EXPECT_THAT(Texts(ChooseControlAddresses("", own, {far})),
              ElementsAre("172.17.0.1", "10.0.0.1", "192.168.5.1"));
  EXPECT_EQ(ChooseControlAddresses("", {}, {far}).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(ControlAddress, NetworksAreComparedBitByBit) {
  const auto a = Address("a", {10, 0, 0, 1}, 25);
  EXPECT_TRUE(SameNetwork(a, Address("b", {10, 0, 0, 126}, 25)));
  EXPECT_FALSE(SameNetwork(a, Address("b", {10, 0, 0, 129}, 25)));
  EXPECT_TRUE(SameNetwork(Address("a", {10, 0, 0, 1}, 0), Address("b", {99, 0, 0, 1}, 8)));
}

TEST(Agreement, NamesTheRankThatDisagrees) {
  const Digest right = DigestOf(Bytes({1}));
  const Digest wrong = DigestOf(Bytes({2}));
  for (const bool follower_first : {false, true}) {
    Agreement agreement(Hosts(3));
    if (follower_first) {
      EXPECT_TRUE(agreement.Follower({.rank = 2, .step = 1, .digest = wrong}).ok());
    } else {
      EXPECT_TRUE(agreement.Own(1, right).ok());
    }
    const absl::Status status = follower_first
                                    ? agreement.Own(1, right)
                                    : agreement.Follower({.rank = 2, .step = 1, .digest = wrong});
    EXPECT_THAT(Message(status), HasSubstr("rank 2 on host n2 disagrees"));
  }
}

TEST(Agreement, DropsStepsThatAllHaveDone) {
  Agreement agreement(Hosts(3));
  const Digest digest = DigestOf(Bytes({1}));
  for (uint64_t step = 1; step <= 100; ++step) {
    EXPECT_TRUE(agreement.Follower({.rank = 1, .step = step, .digest = digest}).ok());
    EXPECT_TRUE(agreement.Own(step, digest).ok());
    EXPECT_TRUE(agreement.Follower({.rank = 2, .step = step, .digest = digest}).ok());
    EXPECT_EQ(agreement.open_steps(), 0U);
  }
}

}  // namespace
}  // namespace tandem::parallel
