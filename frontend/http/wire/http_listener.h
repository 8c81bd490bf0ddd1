#pragma once

#include <string>

#include "core/base/status.h"
#include "frontend/server/listener.h"

namespace tandem::frontend {

/// A socket that listens for HTTP clients. Those who come before they are served wait.
struct HttpListener {
  Socket socket;
  std::string address;     // with the port that it got
  bool loopback = true;    // nobody but this host reaches it
  bool version_6 = false;  // of IP
};

/// Listens on ADDRESS:PORT or [IPv6]:PORT; port 0 or * picks a free one, address * is all.
/// kInvalidArgument for an address that is none, kFailedPrecondition where it cannot be had, each
/// with one line that says what to do.
absl::StatusOr<HttpListener> ListenForHttp(const std::string& address);

}  // namespace tandem::frontend
