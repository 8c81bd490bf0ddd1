#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "frontend/http/wire/http_server.h"
#include "tests/support/echo_server.h"
#include "tests/support/http_client.h"

namespace tandem::frontend {
namespace {

using std::chrono::milliseconds;
using testing::EchoServer;
using testing::Fetch;
using testing::GetRequest;
using ::testing::HasSubstr;
using testing::HttpAnswer;
using testing::PostRequest;
using testing::RawHttpClient;

struct SlowCase {
  std::string bytes;
  int status;  // 0: the connection ends without an answer
};

TEST(HttpLimits, DoesNotWaitForSlowClients) {
  EchoServer handler({.header_time = milliseconds(100),
                      .body_time = milliseconds(100),
                      .idle_time = milliseconds(100),
                      .linger_time = milliseconds(50)});
  const SlowCase cases[] = {
      {"", 0},
      {"GET / HT", 408},
      {"GET / HTTP/1.1\r\nHost: x\r\n", 408},
      {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc", 408},
      {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", 408},
      {GetRequest("/"), 200},
  };
  for (const SlowCase& one : cases) {
    RawHttpClient client(handler.address());
    client.Send(one.bytes);
    EXPECT_EQ(client.Read().status, one.status) << one.bytes;
    EXPECT_TRUE(client.IsClosed()) << one.bytes;
  }
}

TEST(HttpLimits, DoesNotWaitForThoseWhoSendAByteNowAndThen) {
  EchoServer handler({.header_time = milliseconds(100), .linger_time = milliseconds(100)});
  RawHttpClient client(handler.address());
  bool open = true;
  for (int i = 0; i < 200 && open; ++i) {
    open = client.Send("G");
    std::this_thread::sleep_for(milliseconds(10));
  }
  EXPECT_FALSE(open);
}

TEST(HttpLimits, ClosesOnAClientThatDoesNotRead) {
  EchoServer handler({.write_time = milliseconds(200)});
  RawHttpClient client(handler.address());
  client.SetReceiveBuffer(4096);
  client.Send(GetRequest("/large"));
  std::this_thread::sleep_for(milliseconds(100));
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  int64_t left = 1;
  while (left > 0 && std::chrono::steady_clock::now() < until) {
    handler.On([&] { left = handler.server().connections(); });
    std::this_thread::sleep_for(milliseconds(10));
  }
  EXPECT_EQ(left, 0);
}

TEST(HttpLimits, TellsWhyALongBodyIsRefused) {
  EchoServer handler;
  RawHttpClient client(handler.address());
  const std::string body(size_t{10} << 20, 'x');
  client.Send(fmt::format("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.size()));
  client.Send(body);
  EXPECT_EQ(client.Read().status, 413);
  EXPECT_TRUE(client.IsClosed());
  RawHttpClient chunked(handler.address());
  chunked.Send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
  chunked.Send(fmt::format("{:x}\r\n{}", body.size(), body));
  EXPECT_EQ(chunked.Read().status, 413);
}

TEST(HttpLimits, BoundsTheBodiesThatAreBeingRead) {
  EchoServer handler({.total_body_bytes = 1000});
  RawHttpClient first(handler.address());
  const std::string head = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n";
  first.Send(head + std::string(800, 'x'));
  std::this_thread::sleep_for(milliseconds(50));
  RawHttpClient second(handler.address());
  second.Send(head + std::string(800, 'x'));
  EXPECT_EQ(second.Read().status, 503);
  first.Send(std::string(100, 'x'));
  EXPECT_EQ(first.Read().status, 200);
  EXPECT_EQ(Fetch(handler.address(), PostRequest("/", std::string(800, 'x'))).status, 200);
}

TEST(HttpLimits, RefusesClientsBeyondItsLimit) {
  EchoServer handler({.clients = 2, .linger_time = milliseconds(50)});
  RawHttpClient first(handler.address());
  RawHttpClient second(handler.address());
  first.Send(GetRequest("/"));
  EXPECT_EQ(first.Read().status, 200);
  RawHttpClient third(handler.address());
  const HttpAnswer answer = third.Read();
  EXPECT_EQ(answer.status, 503);
  EXPECT_EQ(answer.headers.at("retry-after"), "1");
  EXPECT_TRUE(third.IsClosed());
  first.Close();
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  int status = 0;
  while (status != 200 && std::chrono::steady_clock::now() < until) {
    status = Fetch(handler.address(), GetRequest("/")).status;
  }
  EXPECT_EQ(status, 200);
}

TEST(HttpLimits, TellsEveryClientBeyondItsLimit) {
  EchoServer handler({.clients = 1, .linger_time = milliseconds(60'000)});
  std::vector<std::unique_ptr<RawHttpClient>> clients;
  for (int i = 0; i < 200; ++i) {
    clients.push_back(std::make_unique<RawHttpClient>(handler.address()));
  }
  for (size_t i = 1; i < clients.size(); ++i) {
    const HttpAnswer answer = clients[i]->Read();
    EXPECT_EQ(answer.status, 503) << i;
    EXPECT_THAT(answer.body, HasSubstr("too many clients"));
  }
  clients.front()->Send(GetRequest("/"));
  EXPECT_EQ(clients.front()->Read().status, 200);
}

int64_t ResidentBytes() {
  std::ifstream file("/proc/self/statm");
  int64_t total = 0;
  int64_t resident = 0;
  file >> total >> resident;
  return resident * 4096;
}

TEST(HttpLimits, HoldsManyIdleClientsInLittleMemory) {
  EchoServer handler;
  std::vector<RawHttpClient> clients;
  EXPECT_EQ(Fetch(handler.address(), GetRequest("/")).status, 200);
  const int64_t before = ResidentBytes();
  constexpr int kClients = 450;
  for (int i = 0; i < kClients; ++i) {
    RawHttpClient& client = clients.emplace_back(handler.address());
    if (i % 2 == 0) continue;  // some were busy once
    client.Send(PostRequest("/", std::string(20'000, 'x')));
    EXPECT_EQ(client.Read().status, 200);
  }
  int64_t open = 0;
  handler.On([&] { open = handler.server().connections(); });
  EXPECT_GE(open, kClients);
  // The clients' own buffers are in it too.
#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)  // they keep what is freed
  EXPECT_LT(ResidentBytes() - before, int64_t{kClients} * (32 << 10));
#else
  EXPECT_GT(before, 0);
#endif
}

TEST(HttpLimits, ClosesWhomMostWaitsForWhereTooMuchWaitsForAll) {
  HttpServerOptions options;
  options.total_unread_bytes = int64_t{20} << 20;
  EchoServer echo(options);
  std::vector<RawHttpClient> clients;
  for (int i = 0; i < 6; ++i) {
    RawHttpClient& client = clients.emplace_back(echo.address());
    client.SetReceiveBuffer(65536);
    client.Send(GetRequest("/large"));
  }
  const auto eventually = [&](int64_t connections) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while ((echo.large() < 6 || echo.server().connections() > connections) &&
           std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(milliseconds(5));
    }
    return echo.server().connections();
  };
  EXPECT_EQ(eventually(2), 2) << "8 MiB wait for each";
  size_t whole = 0;
  for (RawHttpClient& client : clients) {
    whole += client.Read().body.size() == size_t{8} << 20 ? 1 : 0;
  }
  EXPECT_EQ(whole, 2U);
  EXPECT_EQ(Fetch(echo.address(), GetRequest("/")).status, 200) << "there is room again";
}

}  // namespace
}  // namespace tandem::frontend
