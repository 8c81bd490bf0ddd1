#include "frontend/server/listener.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <cstdlib>

namespace tandem::frontend {
namespace {

int OptionOf(const Socket& socket, int level, int option) {
  int value = -1;
  socklen_t bytes = sizeof(value);
  EXPECT_EQ(getsockopt(socket.fd(), level, option, &value, &bytes), 0);
  return value;
}

TEST(Listener, TakesAddressesNamesAndInterfaces) {
  for (const char* host : {"127.0.0.1", "localhost", "lo"}) {
    const auto listener = Listen(fmt::format("tcp://{}:*", host));
    ASSERT_TRUE(listener.ok()) << listener.status();
    EXPECT_TRUE(listener->endpoint.starts_with("tcp://127.0.0.1:")) << listener->endpoint;
    EXPECT_FALSE(listener->endpoint.ends_with(":0")) << "the port that was picked";
  }
  EXPECT_TRUE(Listen("tcp://*:*")->endpoint.starts_with("tcp://0.0.0.0:"));
  EXPECT_EQ(Listen("tcp://no such host:1").status().code(), absl::StatusCode::kFailedPrecondition);
  for (const char* wrong : {"tcp://:1", "tcp://127.0.0.1:", "tcp://127.0.0.1:-1"}) {
    EXPECT_EQ(Listen(wrong).status().code(), absl::StatusCode::kInvalidArgument) << wrong;
  }
}

TEST(Listener, WatchesOverConnectionsWhoseHostMayDie) {
  const auto listener = Listen("tcp://127.0.0.1:*");
  ASSERT_TRUE(listener.ok());
  EXPECT_EQ(Accept(*listener, 1000).fd(), -1) << "nobody waits";
  const Socket client(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const std::string port = listener->endpoint.substr(listener->endpoint.rfind(':') + 1);
  address.sin_port = htons(static_cast<uint16_t>(std::atoi(port.c_str())));
  ASSERT_EQ(connect(client.fd(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  pollfd waits{.fd = listener->socket.fd(), .events = POLLIN, .revents = 0};
  ASSERT_EQ(poll(&waits, 1, 10'000), 1);
  const Socket accepted = Accept(*listener, 1000);
  ASSERT_GE(accepted.fd(), 0);
  EXPECT_EQ(OptionOf(accepted, SOL_SOCKET, SO_KEEPALIVE), 1);
  const int seconds =
      OptionOf(accepted, IPPROTO_TCP, TCP_KEEPIDLE) +
      OptionOf(accepted, IPPROTO_TCP, TCP_KEEPINTVL) * OptionOf(accepted, IPPROTO_TCP, TCP_KEEPCNT);
  EXPECT_LE(seconds, 20);
  const int millis = OptionOf(accepted, IPPROTO_TCP, TCP_USER_TIMEOUT);
  EXPECT_GT(millis, 0);
  EXPECT_LE(millis, 20'000);
}

}  // namespace
}  // namespace tandem::frontend
