#include "kv_store/base/zmq_tools.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <thread>

namespace tandem::kv_store {
namespace {

using std::chrono::milliseconds;

constexpr SocketLimits kShort{.largest_message = int64_t{4} << 20,
                              .queued_messages = 4,
                              .heartbeat = milliseconds(10),
                              .silence = milliseconds(5000)};

constexpr int kFrames = 30;

/// Sends more than is read, and is gone while the other end has stopped reading.
void FloodAndLeave(const std::string& endpoint, size_t bytes) {
  zmq::context_t context;
  zmq::socket_t flooder(context, zmq::socket_type::dealer);
  flooder.set(zmq::sockopt::linger, 0);
  flooder.set(zmq::sockopt::sndhwm, 0);
  flooder.connect(endpoint);
  const std::string frame(bytes, 'x');
  for (int i = 0; i < kFrames; ++i) flooder.send(zmq::buffer(frame), zmq::send_flags::dontwait);
  std::this_thread::sleep_for(milliseconds(100));
}

/// libzmq ends the process where a heartbeat finds such a connection.
TEST(ZmqTools, PeersThatFloodAndLeaveEndNothing) {
  for (const char* address : {"tcp://127.0.0.1:*", "ipc://@tandem-zmq-tools-test-*"}) {
    zmq::context_t context;
    zmq::socket_t router(context, zmq::socket_type::router);
    SetSafeOptions(router, kShort);
    router.set(zmq::sockopt::router_mandatory, true);
    router.bind(address);
    const std::string endpoint = router.get(zmq::sockopt::last_endpoint);
    zmq::socket_t honest(context, zmq::socket_type::dealer);
    SetSafeOptions(honest, kShort);
    honest.set(zmq::sockopt::routing_id, std::string("honest"));
    honest.connect(endpoint);
    for (const size_t bytes : {1, 100, 5000, 100'000, 1 << 20}) {
      FloodAndLeave(endpoint, bytes);
      std::this_thread::sleep_for(5 * kShort.heartbeat);
      honest.send(zmq::buffer("hello", 5));
      int flooded = 0;
      for (;;) {
        zmq::pollitem_t items[] = {{router.handle(), 0, ZMQ_POLLIN, 0}};
        ASSERT_EQ(zmq::poll(items, 1, milliseconds(10'000)), 1);
        const auto parts = TryReceive(router);
        ASSERT_EQ(parts.size(), 2U);
        if (parts[0].to_string() == "honest") break;
        ++flooded;
      }
      // What waits in a queue does not keep others from theirs. Frames of the peer before may still
      // come.
      EXPECT_LE(flooded, 2 * kFrames);
      while (!TryReceive(router).empty()) ++flooded;
      EXPECT_GE(flooded, kShort.queued_messages) << address << ", " << bytes << " bytes";
    }
  }
}

TEST(Liveness, CountsTheSilenceOfThePeerAndNotItsOwn) {
  Liveness peer({.heartbeat = milliseconds(20), .silence = milliseconds(100)});
  EXPECT_TRUE(peer.Tick());
  EXPECT_FALSE(peer.Tick()) << "a ping has just left";
  // This process was stopped.
  std::this_thread::sleep_for(milliseconds(300));
  EXPECT_TRUE(peer.Tick());
  EXPECT_FALSE(peer.suspect());
  for (int i = 0; i < 200 && !peer.silent(); ++i) {
    EXPECT_LE(peer.quiet(), milliseconds(100));
    std::this_thread::sleep_for(milliseconds(5));
    peer.Tick();
  }
  EXPECT_TRUE(peer.silent());
  EXPECT_TRUE(peer.suspect());
  EXPECT_THAT(peer.Text(), ::testing::HasSubstr("has sent nothing for 0.1 s"));
  peer.Heard();
  EXPECT_FALSE(peer.silent());
  EXPECT_FALSE(peer.suspect());
}

}  // namespace
}  // namespace tandem::kv_store
