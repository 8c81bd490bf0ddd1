#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "frontend/http/wire/http_listener.h"
#include "frontend/http/wire/http_message.h"
#include "frontend/http/wire/request_reader.h"

namespace tandem::frontend {

struct HttpServerOptions {
  std::string address =
      "127.0.0.1:8080";  // HOST:PORT, or [IPv6]:PORT; port 0 or * picks a free one
  std::shared_ptr<HttpListener> listener = nullptr;  // what listens there already; used up
  RequestLimits request = {};
  int64_t clients = 4096;  // connections at once
  /// Clients beyond them that are waited for when they are told so; others are closed at once.
  int64_t told_clients = kToldClients;
  static constexpr int64_t kToldClients = 64;
  /// Of bodies that are being read, in all. Beyond it comes 503.
  int64_t total_body_bytes = int64_t{256} << 20;
  /// Bytes of requests that a client sends ahead while one is being answered.
  int64_t pipelined_bytes = int64_t{16} << 10;
  /// Bytes of answers that a client has not read, beyond which its next request waits.
  int64_t unread_bytes = int64_t{64} << 10;
  /// Of answers that all clients together have not read. Beyond it answers end, those first of
  /// which most waits.
  int64_t total_unread_bytes = int64_t{256} << 20;
  std::chrono::milliseconds header_time{10'000};   // from a request's first byte
  std::chrono::milliseconds body_time{30'000};     // from the end of its headers
  std::chrono::milliseconds write_time{30'000};    // without any progress of an answer
  std::chrono::milliseconds idle_time{75'000};     // without a request
  std::chrono::milliseconds linger_time{2000};     // for what a refused client still sends
  std::chrono::milliseconds stop_time{1000};       // for answers in progress, once it stops
  std::chrono::milliseconds comment_time{10'000};  // a stream says something that often
};

/// The way of an answer back to its client. Whatever is called once the client is gone, or the
/// answer is complete, does nothing. Thread safety: all functions on the server's thread.
class HttpReply {
 public:
  virtual ~HttpReply() = default;

  /// The whole answer.
  virtual void Send(HttpResponse response) = 0;
  /// The beginning of an answer that comes in pieces; its body is the first one. `comment`: sent
  /// where nothing else was for comment_time; empty: nothing is.
  virtual void Begin(HttpResponse response, std::string comment) = 0;
  virtual void Write(std::string_view bytes) = 0;
  virtual void End() = 0;

  virtual bool gone() const = 0;
  /// Bytes that wait for the client. From any thread.
  virtual int64_t unsent() const = 0;
  /// Called once, when the client goes away before its answer is complete.
  virtual void OnGone(std::function<void()> gone) = 0;
  /// Called once, where more waits for all clients together than may, and most of it for this one:
  /// of an answer in pieces, those that are not on their way are thrown away, and what this writes
  /// and ends is the rest of it. Without it the connection is closed, and OnGone hears of it.
  virtual void OnCrowded(std::function<void()> crowded) = 0;
  /// A number that tells connections apart, and the address of the other end.
  virtual uint64_t connection() const = 0;
  virtual const std::string& peer() const = 0;
};

/// What a server does with requests.
class HttpHandler {
 public:
  virtual ~HttpHandler() = default;
  /// Looks at the headers, before the body is read. A response refuses the request. `peer`: the
  /// address of the client.
  virtual std::optional<HttpResponse> CheckHead(const HttpRequest& request,
                                                const std::string& peer) = 0;
  virtual void Handle(HttpRequest request, std::shared_ptr<HttpReply> reply) = 0;
  /// The response to what is no request, or comes from one client too many (503). `request`: what
  /// is known of it, perhaps nothing.
  virtual HttpResponse Malformed(int status, std::string_view message, const HttpRequest& request,
                                 const std::string& peer) = 0;
};

}  // namespace tandem::frontend
