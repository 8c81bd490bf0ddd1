#include "frontend/http/wire/http_server.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <fstream>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/http_client.h"

namespace tandem::frontend {
namespace {

using std::chrono::milliseconds;
using testing::Fetch;
using testing::GetRequest;
using ::testing::HasSubstr;
using testing::HttpAnswer;
using ::testing::Not;
using testing::PostRequest;
using testing::RawHttpClient;

/// Echoes bodies; at other paths it does what the tests want.
class EchoServer final : public HttpHandler {
 public:
  explicit EchoServer(HttpServerOptions options = {}) {
    options.address = "127.0.0.1:0";
    server_ = HttpServer::Create(std::move(options), *this).value();
    thread_ = std::thread([this] { server_->Run(); });
  }
  ~EchoServer() override {
    server_->Stop();
    thread_.join();
  }

  const std::string& address() const { return server_->address(); }
  HttpServer& server() { return *server_; }

  std::optional<HttpResponse> CheckHead(const HttpRequest& request,
                                        const std::string& /*peer*/) override {
    if (request.path != "/refused") return std::nullopt;
    return HttpResponse{.status = 403, .content_type = "text/plain", .body = "no"};
  }
  void Handle(HttpRequest request, std::shared_ptr<HttpReply> reply) override {
    if (request.path == "/throws") throw std::runtime_error("thrown");
    if (request.path == "/later") {
      reply->OnGone([this] {
        const std::lock_guard lock(mutex_);
        ++gone_;
        changed_.notify_all();
      });
      const std::lock_guard lock(mutex_);
      later_.push_back(std::move(reply));
      changed_.notify_all();
      return;
    }
    if (request.path == "/large") {
      ++large_;
      reply->Send({.content_type = "text/plain", .body = std::string(size_t{8} << 20, 'x')});
      return;
    }
    HttpResponse response{.content_type = "text/plain", .body = request.body};
    if (request.method == "GET" || request.method == "HEAD") response.body = "hello";
    reply->Send(std::move(response));
  }
  HttpResponse Malformed(int status, std::string_view message, const HttpRequest& /*request*/,
                         const std::string& /*peer*/) override {
    HttpResponse response{
        .status = status, .content_type = "text/plain", .body = std::string(message)};
    if (status == 503) response.headers.emplace_back("Retry-After", "1");
    return response;
  }

  /// The reply to the next request for /later. Only the server's thread may use it: see On.
  std::shared_ptr<HttpReply> Next() {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(10), [&] { return !later_.empty(); });
    if (later_.empty()) return nullptr;
    auto reply = std::move(later_.front());
    later_.pop_front();
    return reply;
  }
  /// Requests for /large so far.
  int large() const { return large_.load(); }
  bool WaitGone() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(10), [&] { return gone_ > 0; });
  }
  /// Calls it on the server's thread, and waits for that.
  void On(std::function<void()> function) {
    std::mutex mutex;
    std::condition_variable called;
    bool done = false;
    server_->Post([&] {
      function();
      const std::lock_guard lock(mutex);
      done = true;
      called.notify_all();
    });
    std::unique_lock lock(mutex);
    called.wait(lock, [&] { return done; });
  }

 private:
  std::unique_ptr<HttpServer> server_;
  std::thread thread_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<HttpReply>> later_;
  int gone_ = 0;
  std::atomic<int> large_{0};
};

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

struct SlowCase {
  std::string bytes;
  int status;  // 0: the connection ends without an answer
};

TEST(HttpServer, DoesNotWaitForSlowClients) {
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

TEST(HttpServer, DoesNotWaitForThoseWhoSendAByteNowAndThen) {
  EchoServer handler({.header_time = milliseconds(100), .linger_time = milliseconds(100)});
  RawHttpClient client(handler.address());
  bool open = true;
  for (int i = 0; i < 200 && open; ++i) {
    open = client.Send("G");
    std::this_thread::sleep_for(milliseconds(10));
  }
  EXPECT_FALSE(open);
}

TEST(HttpServer, ClosesOnAClientThatDoesNotRead) {
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

TEST(HttpServer, TellsWhyALongBodyIsRefused) {
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

TEST(HttpServer, BoundsTheBodiesThatAreBeingRead) {
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

TEST(HttpServer, RefusesClientsBeyondItsLimit) {
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

TEST(HttpServer, TellsEveryClientBeyondItsLimit) {
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

int64_t ResidentBytes() {
  std::ifstream file("/proc/self/statm");
  int64_t total = 0;
  int64_t resident = 0;
  file >> total >> resident;
  return resident * 4096;
}

TEST(HttpServer, HoldsManyIdleClientsInLittleMemory) {
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

TEST(HttpServer, ClosesWhomMostWaitsForWhereTooMuchWaitsForAll) {
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
