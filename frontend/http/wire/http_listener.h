#pragma once

#include <string>

#include "core/base/status.h"

namespace tandem::frontend {

/// A socket that listens for HTTP clients, who wait until a server takes it over. Movable.
class HttpListener {
 public:
  /// `address`: HOST:PORT or [IPv6]:PORT, as numbers; `localhost` and * for all addresses, too;
  /// port 0 or * picks a free one. kInvalidArgument for what is none, kFailedPrecondition where it
  /// cannot be had.
  static absl::StatusOr<HttpListener> Listen(const std::string& address);
  HttpListener(HttpListener&& other) noexcept;
  HttpListener& operator=(HttpListener&& other) noexcept;
  ~HttpListener();

  const std::string& address() const { return address_; }  // with the port that was picked
  bool loopback() const { return loopback_; }              // nobody else reaches it
  bool ipv6() const { return ipv6_; }
  /// The descriptor; the caller owns it from now on.
  int Release();

 private:
  HttpListener() = default;

  int socket_ = -1;
  std::string address_;
  bool loopback_ = true;
  bool ipv6_ = false;
};

}  // namespace tandem::frontend
