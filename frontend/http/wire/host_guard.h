#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "frontend/http/wire/http_message.h"

namespace tandem::frontend {

struct HostGuardOptions {
  /// Names by which the server may be called (--http-hosts), without ports. Where it listens on
  /// loopback, names of loopback are always allowed and others need to be listed; elsewhere an
  /// empty list allows all, so that nobody has to name the addresses of a host.
  std::vector<std::string> hosts = {};
  /// Web pages that may call (--http-origins), like "https://example.org"; "*" allows all.
  std::vector<std::string> origins = {};
  std::vector<std::string> keys = {};  // empty: none is asked for
  bool loopback = true;                // where the server listens
};

/// Decides who may come: which name a client calls the server by (a page that has its own name
/// resolve to 127.0.0.1 is told apart so), which page's script asks, and whether it has a key.
/// Immutable; safe to use from any thread.
class HostGuard {
 public:
  explicit HostGuard(const HostGuardOptions& options);

  struct Refusal {
    int status = 403;
    std::string message;
  };
  /// Host and Origin. Nothing: they are fine.
  std::optional<Refusal> CheckOrigin(const HttpRequest& request) const;
  /// `Authorization: Bearer KEY` or `x-api-key: KEY`, compared in a time that tells nothing of it.
  std::optional<Refusal> CheckKey(const HttpRequest& request) const;

  /// What a browser needs to be told with an answer to this request: nothing without an Origin that
  /// is allowed.
  HttpHeaders CorsHeaders(const HttpRequest& request) const;
  /// The answer to a browser's question whether it may send such a request.
  static bool IsPreflight(const HttpRequest& request);
  HttpResponse Preflight(const HttpRequest& request, std::string_view methods) const;

 private:
  using KeyHash = std::array<unsigned char, 32>;

  bool AllowsHost(std::string_view host) const;
  bool AllowsOrigin(const HttpRequest& request) const;

  const HostGuardOptions options_;
  std::vector<KeyHash> keys_;
};

/// "[::1]:8080" is "::1", "Example.org:80" is "example.org". Empty for what is no host.
std::string HostWithoutPort(std::string_view host);

}  // namespace tandem::frontend
