#include "frontend/http/wire/http_server.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/tcp.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cerrno>
#include <exception>
#include <unordered_map>

#include "frontend/http/wire/http_connection.h"
#include "frontend/http/wire/http_listener.h"

namespace tandem::frontend {
namespace {

using Tcp = boost::asio::ip::tcp;

std::string EndpointText(const Tcp::endpoint& endpoint) {
  const auto address = endpoint.address();
  boost::system::error_code error;
  const std::string text = address.to_string(error);
  return address.is_v6() ? fmt::format("[{}]:{}", text, endpoint.port())
                         : fmt::format("{}:{}", text, endpoint.port());
}

/// What the kernel holds for a client is bounded, and a host that is gone is noticed.
void SetSocketOptions(Tcp::socket& socket) {
  constexpr int kSendBytes = 256 << 10;
  boost::system::error_code ignored;
  socket.non_blocking(true, ignored);
  socket.set_option(Tcp::no_delay(true), ignored);
  socket.set_option(boost::asio::socket_base::send_buffer_size(kSendBytes), ignored);
  socket.set_option(boost::asio::socket_base::keep_alive(true), ignored);
  const auto set = [&](int name, int value) {
    setsockopt(socket.native_handle(), IPPROTO_TCP, name, &value, sizeof value);
  };
  set(TCP_KEEPIDLE, 10);
  set(TCP_KEEPINTVL, 5);
  set(TCP_KEEPCNT, 2);
  set(TCP_USER_TIMEOUT, 60'000);
}

class AsioHttpServer final : public HttpServer {
 public:
  AsioHttpServer(HttpServerOptions options, HttpHandler& handler)
      : options_(std::move(options)),
        share_{.options = options_,
               .handler = handler,
               .closed = [this](uint64_t number) { Closed(number); },
               .crowded = [this] { MakeRoomSoon(); }},
        acceptor_(context_),
        retry_(context_) {}
  ~AsioHttpServer() override {
    CloseAll();
    // What waits in the context holds connections, which refer to this.
    context_.restart();
    context_.poll();
  }

  absl::Status Listen() {
    if (options_.listener == nullptr) {
      TANDEM_ASSIGN_OR_RETURN(HttpListener listener, ListenForHttp(options_.address));
      options_.listener = std::make_shared<HttpListener>(std::move(listener));
    }
    address_ = options_.listener->address;
    loopback_ = options_.listener->loopback;
    // The acceptor closes what it has; the listener is used up.
    const int fd = fcntl(options_.listener->socket.fd(), F_DUPFD_CLOEXEC, 0);
    boost::system::error_code error;
    protocol_ = options_.listener->version_6 ? Tcp::v6() : Tcp::v4();
    acceptor_.assign(protocol_, fd, error);
    options_.listener.reset();
    if (!error) acceptor_.non_blocking(true, error);
    if (error) return Internal("--http {}: {}", address_, error.message());
    return absl::OkStatus();
  }

  const std::string& address() const override { return address_; }
  bool loopback() const override { return loopback_; }

  void Run() override {
    Accept();
    while (!context_.stopped()) {
      try {
        context_.run();
      } catch (const std::exception&) {
        // What it was about has ended; others go on.
        continue;
      }
    }
    CloseAll();
  }

  void Stop() override {
    stopped_.store(true);
    Post([this] {
      boost::system::error_code ignored;
      acceptor_.close(ignored);
      retry_.cancel(ignored);
      EndWhenIdle(std::chrono::steady_clock::now() + options_.stop_time);
    });
  }
  void Post(std::function<void()> function) override {
    boost::asio::post(context_, std::move(function));
  }
  void After(std::chrono::milliseconds time, std::function<void()> function) override {
    auto timer = std::make_shared<boost::asio::steady_timer>(context_, time);
    timer->async_wait(
        [timer, function = std::move(function)](const boost::system::error_code& error) {
          if (!error) function();
        });
  }
  int64_t connections() const override { return count_.load(); }
  uint64_t refused_connections() const override { return refused_; }

 private:
  void Accept() {
    acceptor_.async_wait(Tcp::acceptor::wait_read, [this](const boost::system::error_code& error) {
      if (error == boost::asio::error::operation_aborted || stopped_.load()) return;
      if (error) return AcceptLater();
      TakeWaiting();
    });
  }

  void AcceptLater() {
    retry_.expires_after(std::chrono::milliseconds(100));
    retry_.async_wait([this](const boost::system::error_code& cancelled) {
      if (!cancelled) Accept();
    });
  }

  /// By hand, since Asio has programs that are started later inherit the sockets: a client would
  /// not see that its connection is closed.
  void TakeWaiting() {
    constexpr int kATurn = 64;
    for (int i = 0; i < kATurn; ++i) {
      const int accepted =
          accept4(acceptor_.native_handle(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (accepted < 0) {
        if (errno == EINTR || errno == ECONNABORTED) continue;
        if (errno == EAGAIN || errno == EWOULDBLOCK) break;
        return AcceptLater();  // no descriptor is left, for example: others are given back
      }
      Tcp::socket socket(context_);
      boost::system::error_code error;
      socket.assign(protocol_, accepted, error);
      if (error) {
        close(accepted);
        continue;
      }
      try {
        Take(std::move(socket));
      } catch (const std::exception&) {
        continue;  // that one is lost; others are not
      }
    }
    Accept();
  }

  void Take(Tcp::socket socket) {
    boost::system::error_code error;
    const Tcp::endpoint peer = socket.remote_endpoint(error);
    if (error) return;
    SetSocketOptions(socket);
    const uint64_t number = ++last_;
    const bool full = static_cast<int64_t>(connections_.size()) >= options_.clients;
    if (full) ++refused_;
    // Those who are waited for when they are told why are bounded, too.
    if (static_cast<int64_t>(connections_.size()) >= options_.clients + options_.told_clients) {
      return TellAtOnce(std::move(socket), EndpointText(peer));
    }
    const auto connection =
        std::make_shared<HttpConnection>(std::move(socket), number, EndpointText(peer), share_);
    connections_.emplace(number, connection);
    ++count_;
    if (!full) return connection->Start();
    connection->Refuse(FullResponse(EndpointText(peer)));
  }

  HttpResponse FullResponse(const std::string& peer) {
    HttpResponse response =
        share_.handler.Malformed(503, "too many clients are connected: try again later", {}, peer);
    response.close = true;
    return response;
  }

  /// The buffers of a new connection have room for it. One that has sent more than is read here may
  /// lose it.
  void TellAtOnce(Tcp::socket socket, const std::string& peer) {
    const HttpResponse response = FullResponse(peer);
    const std::string bytes = HttpHead(response, {.keep_alive = false}) + response.body;
    boost::system::error_code ignored;
    socket.write_some(boost::asio::buffer(bytes), ignored);
    socket.shutdown(Tcp::socket::shutdown_send, ignored);
    socket.read_some(boost::asio::buffer(share_.scratch.data(), share_.scratch.size()), ignored);
  }

  void Closed(uint64_t number) { count_ -= static_cast<int64_t>(connections_.erase(number)); }

  /// Not at once: whoever has put something is in the middle of it.
  void MakeRoomSoon() {
    if (std::exchange(makes_room_, true)) return;
    Post([this] {
      makes_room_ = false;
      MakeRoom();
    });
  }

  void MakeRoom() {
    while (share_.unread_bytes > options_.total_unread_bytes) {
      const auto most = std::max_element(connections_.begin(), connections_.end(),
                                         [](const auto& one, const auto& other) {
                                           return one.second->unsent() < other.second->unsent();
                                         });
      if (most == connections_.end()) return;
      spdlog::warn(
          "{} bytes of answers over HTTP wait for clients that do not read them, at most {} may: "
          "ended the one of which most waits, {} bytes for {}",
          share_.unread_bytes, options_.total_unread_bytes, most->second->unsent(),
          most->second->peer());
      const std::shared_ptr<HttpConnection> connection = most->second;
      connection->MakeRoom();
    }
  }

  void EndWhenIdle(std::chrono::steady_clock::time_point until) {
    constexpr std::chrono::milliseconds kLook{10};
    const bool busy = std::any_of(connections_.begin(), connections_.end(),
                                  [](const auto& entry) { return entry.second->busy(); });
    if (!busy || std::chrono::steady_clock::now() >= until) return context_.stop();
    After(kLook, [this, until] { EndWhenIdle(until); });
  }

  void CloseAll() {
    boost::system::error_code ignored;
    acceptor_.close(ignored);
    retry_.cancel(ignored);
    const auto connections = std::exchange(connections_, {});
    count_ = 0;
    for (const auto& [number, connection] : connections) connection->Close();
  }

  HttpServerOptions options_;
  HttpConnectionShare share_;
  boost::asio::io_context context_{1};
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_{
      context_.get_executor()};
  Tcp protocol_ = Tcp::v4();
  Tcp::acceptor acceptor_;
  boost::asio::steady_timer retry_;
  std::string address_;
  bool loopback_ = true;
  std::atomic<bool> stopped_{false};
  std::unordered_map<uint64_t, std::shared_ptr<HttpConnection>> connections_;
  std::atomic<int64_t> count_{0};  // of them
  bool makes_room_ = false;
  uint64_t last_ = 0;
  uint64_t refused_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Create(HttpServerOptions options,
                                                               HttpHandler& handler) {
  auto server = std::make_unique<AsioHttpServer>(std::move(options), handler);
  TANDEM_RETURN_IF_ERROR(server->Listen());
  return server;
}

}  // namespace tandem::frontend
