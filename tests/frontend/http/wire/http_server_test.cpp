#include "frontend/http/wire/http_server.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

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

TEST(HttpServer, ListensWhereItIsTold) {
  EchoServer handler;
  EXPECT_TRUE(handler.server().loopback());
  EXPECT_THAT(handler.address(), HasSubstr("127.0.0.1:"));
  for (const char* wrong : {"", "8080", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000",
                            "some.name:80", "127.0.0.1:80 ", "[::1:80"}) {
    const auto server = HttpServer::Create({.address = wrong}, handler);
    EXPECT_TRUE(absl::IsInvalidArgument(server.status())) << wrong << server.status();
  }
  const auto taken = HttpServer::Create({.address = handler.address()}, handler);
  EXPECT_TRUE(absl::IsFailedPrecondition(taken.status())) << taken.status();
  EXPECT_THAT(Message(taken.status()), HasSubstr("--http 127.0.0.1:"));
  const auto all = HttpServer::Create({.address = "*:*"}, handler);
  ASSERT_TRUE(all.ok());
  EXPECT_FALSE((*all)->loopback());
}

TEST(HttpServer, KeepsConnections) {
  EchoServer handler;
  RawHttpClient client(handler.address());
  for (int i = 0; i < 3; ++i) {
    client.Send(PostRequest("/", fmt::format("body {}", i)));
    const HttpAnswer answer = client.Read();
    EXPECT_EQ(answer.body, fmt::format("body {}", i));
    EXPECT_FALSE(answer.headers.contains("connection"));
    EXPECT_THAT(answer.headers.at("date"), HasSubstr(" GMT"));
  }
  client.Send(GetRequest("/", "Connection: close\r\n"));
  EXPECT_EQ(client.Read().headers.at("connection"), "close");
  EXPECT_TRUE(client.IsClosed());
}

TEST(HttpServer, ToleratesHttp10) {
  EchoServer handler;
  RawHttpClient client(handler.address());
  client.Send("GET / HTTP/1.0\r\n\r\n");
  EXPECT_EQ(client.Read().body, "hello");
  EXPECT_TRUE(client.IsClosed());
  RawHttpClient kept(handler.address());
  for (int i = 0; i < 2; ++i) {
    kept.Send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    EXPECT_EQ(kept.Read().headers.at("connection"), "keep-alive");
  }
}

TEST(HttpServer, AnswersHeadWithoutABody) {
  EchoServer handler;
  RawHttpClient client(handler.address());
  client.Send("HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n");
  const HttpAnswer answer = client.Read(/*head_only=*/true);
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.headers.at("content-length"), "5");
  client.Send(GetRequest("/"));
  EXPECT_EQ(client.Read().body, "hello") << "nothing stood between";
}

TEST(HttpServer, AsksForTheBodyThatIsExpected) {
  EchoServer handler;
  RawHttpClient client(handler.address());
  client.Send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_EQ(client.Read().status, 100);
  client.Send("ok");
  EXPECT_EQ(client.Read().body, "ok");
  client.Send(
      "POST /refused HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_EQ(client.Read().status, 403) << "without the body";
  EXPECT_TRUE(client.IsClosed());
}

TEST(HttpServer, AnswersPipelinedRequestsInOrder) {
  EchoServer handler;
  RawHttpClient client(handler.address());
  std::string all;
  for (int i = 0; i < 50; ++i) all += PostRequest("/", fmt::format("{}", i));
  client.Send(all);
  for (int i = 0; i < 50; ++i) EXPECT_EQ(client.Read().body, fmt::format("{}", i));
}

TEST(HttpServer, AnswersPipelinedRequestsOfAClientThatSendsNoMore) {
  EchoServer handler;
  RawHttpClient client(handler.address());
  client.Send(PostRequest("/", "a") + PostRequest("/", "b"));
  client.FinishSending();
  EXPECT_EQ(client.Read().body, "a");
  EXPECT_EQ(client.Read().body, "b");
  EXPECT_TRUE(client.IsClosed());
}

TEST(HttpServer, ReadsAheadOnlySoMuch) {
  EchoServer handler;
  RawHttpClient client(handler.address());
  client.Send(GetRequest("/later"));
  const auto reply = handler.Next();
  std::string all;
  for (int i = 0; i < 2000; ++i) all += PostRequest("/", fmt::format("{}", i));
  client.Send(all);
  handler.On([&] { reply->Send({.content_type = "text/plain", .body = "late"}); });
  EXPECT_EQ(client.Read().body, "late");
  for (int i = 0; i < 2000; ++i) EXPECT_EQ(client.Read().body, fmt::format("{}", i));
}

TEST(HttpServer, AnswersNoMoreThanAClientReads) {
  EchoServer handler;
  RawHttpClient client(handler.address());
  std::string all;
  for (int i = 0; i < 5; ++i) all += GetRequest("/large");
  client.Send(all);
  while (handler.large() == 0) handler.On([] {});
  handler.On([] {});
  EXPECT_EQ(handler.large(), 1) << "its answer does not fit into the kernel's buffers";
  for (int i = 0; i < 5; ++i) EXPECT_EQ(client.Read().body.size(), size_t{8} << 20);
  EXPECT_EQ(handler.large(), 5);
}

TEST(HttpServer, NoticesAClientThatPipelinesAndLeaves) {
  EchoServer handler;
  {
    RawHttpClient client(handler.address());
    client.Send(GetRequest("/later"));
    client.Send(std::string(100'000, 'x'));
    ASSERT_NE(handler.Next(), nullptr);
    client.Close();
  }
  EXPECT_TRUE(handler.WaitGone());
}

TEST(HttpServer, NoticesAClientThatLeaves) {
  for (const bool reset : {false, true}) {
    EchoServer handler;
    RawHttpClient client(handler.address());
    client.Send(GetRequest("/later"));
    const auto reply = handler.Next();
    ASSERT_NE(reply, nullptr);
    handler.On([&] { reply->Begin({.content_type = "text/plain"}, ""); });
    reset ? client.Reset() : client.Close();
    EXPECT_TRUE(handler.WaitGone());
    handler.On([&] {
      EXPECT_TRUE(reply->gone());
      reply->Write("nobody reads this");
      reply->End();
    });
  }
}

TEST(HttpServer, StreamsInChunks) {
  EchoServer handler;
  RawHttpClient client(handler.address());
  client.Send(GetRequest("/later"));
  const auto reply = handler.Next();
  handler.On([&] {
    reply->Begin({.content_type = "text/plain", .body = "a"}, "");
    reply->Write("bc");
    reply->Write("");
    reply->End();
    reply->End();
    reply->Write("after the end");
  });
  const std::string answer = client.ReadUntil("\r\n0\r\n\r\n");
  EXPECT_THAT(answer, HasSubstr("Transfer-Encoding: chunked\r\n"));
  EXPECT_THAT(answer, ::testing::EndsWith("\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n"));
  client.Send(GetRequest("/"));
  EXPECT_EQ(client.Read().body, "hello");
}

TEST(HttpServer, StreamsToTheEndOfTheConnectionBeforeHttp11) {
  EchoServer handler;
  RawHttpClient client(handler.address());
  client.Send("GET /later HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  const auto reply = handler.Next();
  handler.On([&] {
    reply->Begin({.content_type = "text/plain", .body = "a"}, "");
    reply->Write("bc");
    reply->End();
  });
  const HttpAnswer answer = client.Read();
  EXPECT_FALSE(answer.headers.contains("transfer-encoding"));
  EXPECT_EQ(answer.body, "abc");
}

TEST(HttpServer, SaysSomethingInAQuietStream) {
  EchoServer handler({.comment_time = milliseconds(50)});
  RawHttpClient client(handler.address());
  client.Send(GetRequest("/later"));
  const auto reply = handler.Next();
  handler.On([&] { reply->Begin({.content_type = "text/event-stream"}, ": quiet\n\n"); });
  for (int i = 0; i < 3; ++i) EXPECT_THAT(client.ReadUntil("\n\n"), HasSubstr(": quiet"));
}

TEST(HttpServer, GoesOnAfterAHandlerThrows) {
  EchoServer handler;
  RawHttpClient client(handler.address());
  client.Send(GetRequest("/throws"));
  EXPECT_EQ(client.Read().status, 500);
  EXPECT_EQ(Fetch(handler.address(), GetRequest("/")).status, 200);
}

TEST(HttpServer, SendsAnswersInProgressBeforeItStops) {
  auto handler = std::make_unique<EchoServer>();
  RawHttpClient client(handler->address());
  RawHttpClient idle(handler->address());
  client.Send(GetRequest("/later"));
  const auto reply = handler->Next();
  handler->server().Stop();
  std::this_thread::sleep_for(milliseconds(30));
  handler->On([&] { reply->Send({.content_type = "text/plain", .body = "late"}); });
  EXPECT_EQ(client.Read().body, "late");
  handler.reset();
  EXPECT_TRUE(client.IsClosed());
  EXPECT_TRUE(idle.IsClosed());
}

TEST(HttpServer, TakesAListenerOver) {
  HttpListener listener = ListenForHttp("127.0.0.1:0").value();
  const std::string address = listener.address;
  RawHttpClient early(address);
  early.Send(GetRequest("/"));
  EchoServer handler({.listener = std::make_shared<HttpListener>(std::move(listener))});
  EXPECT_EQ(handler.address(), address);
  EXPECT_EQ(early.Read().body, "hello");
}

TEST(HttpServer, IgnoresUpgrades) {
  EchoServer handler;
  RawHttpClient client(handler.address());
  client.Send(GetRequest("/", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"));
  EXPECT_EQ(client.Read().body, "hello");
  client.Send(GetRequest("/", "Connection: Upgrade\r\nUpgrade: websocket\r\n"));
  EXPECT_EQ(client.Read().body, "hello");
}

TEST(HttpServer, LeavesNoSocketToProgramsThatAreStartedLater) {
  EchoServer echo;
  RawHttpClient client(echo.address());
  ASSERT_TRUE(client.Send(GetRequest("/")));
  ASSERT_EQ(client.Read().status, 200);
  const auto port =
      static_cast<uint16_t>(std::stoi(echo.address().substr(echo.address().rfind(':') + 1)));
  int sockets = 0;
  for (int fd = 0; fd < 1024; ++fd) {
    sockaddr_in own{};
    socklen_t size = sizeof own;
    if (getsockname(fd, reinterpret_cast<sockaddr*>(&own), &size) != 0) continue;
    if (own.sin_family != AF_INET || ntohs(own.sin_port) != port) continue;
    ++sockets;
    EXPECT_NE(fcntl(fd, F_GETFD) & FD_CLOEXEC, 0) << "socket " << fd;
  }
  EXPECT_GE(sockets, 2) << "one that listens, and one for the client";
}

}  // namespace
}  // namespace tandem::frontend
