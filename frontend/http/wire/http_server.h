#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "core/base/status.h"
#include "frontend/http/wire/http_handler.h"

namespace tandem::frontend {

/// Serves HTTP/1.1 on one thread: no client can block it, end it, or cost it more than the limits.
/// A connection that waits for a request costs about 1 KiB and what the kernel has for it; buffers
/// come with bytes. Thread safety: Run from one thread; Stop, Post and connections from any; the
/// rest from the thread of Run, or before it.
class HttpServer {
 public:
  using Clock = std::chrono::steady_clock;

  /// Listens. kInvalidArgument for an address that is none, kFailedPrecondition where it cannot be
  /// had.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Create(HttpServerOptions options,
                                                            HttpHandler& handler);
  virtual ~HttpServer() = default;

  virtual const std::string& address() const = 0;  // with the port that was picked
  virtual bool loopback() const = 0;               // nobody else reaches it
  virtual void Run() = 0;
  /// Ends Run, once answers in progress are sent, or after stop_time. Connections are closed.
  virtual void Stop() = 0;
  /// Calls a function on the server's thread.
  virtual void Post(std::function<void()> function) = 0;
  virtual void After(std::chrono::milliseconds time, std::function<void()> function) = 0;
  virtual int64_t connections() const = 0;
  virtual uint64_t refused_connections() const = 0;
};

}  // namespace tandem::frontend
