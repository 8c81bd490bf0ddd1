#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "frontend/http/wire/http_server.h"

namespace tandem::testing {

using frontend::HttpHandler;
using frontend::HttpReply;
using frontend::HttpRequest;
using frontend::HttpResponse;
using frontend::HttpServer;
using frontend::HttpServerOptions;

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

}  // namespace tandem::testing
