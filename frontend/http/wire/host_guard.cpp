#include "frontend/http/wire/host_guard.h"

#include <fmt/format.h>
#include <sodium.h>

#include <algorithm>

namespace tandem::frontend {
namespace {

/// Names that lead to this host itself, whoever resolves them.
bool IsLoopbackName(std::string_view host) {
  if (host == "localhost" || host == "::1") return true;
  if (host.ends_with(".localhost")) return true;
  // 127.0.0.0/8, written with four numbers.
  return host.starts_with("127.") && std::count(host.begin(), host.end(), '.') == 3 &&
         host.find_first_not_of("0123456789.") == std::string_view::npos;
}

bool Lists(const std::vector<std::string>& list, std::string_view text) {
  return std::any_of(list.begin(), list.end(), [&](const std::string& entry) {
    return entry == "*" || EqualIgnoringCase(entry, text);
  });
}

/// For messages: what is no printable ASCII is left out, and so is what is too long.
std::string Printable(std::string_view text) {
  constexpr size_t kMost = 80;
  std::string shown;
  for (const char c : text.substr(0, kMost)) {
    if (c >= ' ' && c <= '~' && c != '"' && c != '\\') shown.push_back(c);
  }
  return shown;
}

}  // namespace

std::string HostWithoutPort(std::string_view host) {
  size_t end = host.size();
  if (host.starts_with('[')) {
    const size_t bracket = host.find(']');
    if (bracket == std::string_view::npos) return "";
    const std::string_view rest = host.substr(bracket + 1);
    if (!rest.empty() && rest.front() != ':') return "";
    host = host.substr(1, bracket - 1);
    end = host.size();
  } else {
    end = std::min(host.find(':'), host.size());
    if (end < host.size() &&
        host.substr(end + 1).find_first_not_of("0123456789") != std::string_view::npos) {
      return "";
    }
  }
  std::string name(host.substr(0, end));
  std::transform(name.begin(), name.end(), name.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  if (name.ends_with('.')) name.pop_back();
  return name;
}

HostGuard::HostGuard(const HostGuardOptions& options) : options_(options) {
  for (const std::string& key : options_.keys) {
    KeyHash& hash = keys_.emplace_back();
    crypto_generichash(hash.data(), hash.size(), reinterpret_cast<const unsigned char*>(key.data()),
                       key.size(), nullptr, 0);
  }
}

bool HostGuard::AllowsHost(std::string_view host) const {
  const std::string name = HostWithoutPort(host);
  if (name.empty()) return false;
  if (Lists(options_.hosts, name)) return true;
  if (options_.loopback) return IsLoopbackName(name);
  return options_.hosts.empty();
}

bool HostGuard::AllowsOrigin(const HttpRequest& request) const {
  const std::string_view origin = request.Header("origin");
  if (origin.empty() || Lists(options_.origins, origin)) return true;
  // A page of the server's own, whose name is allowed already.
  const size_t scheme = origin.find("://");
  return scheme != std::string_view::npos &&
         EqualIgnoringCase(origin.substr(scheme + 3), request.Header("host"));
}

std::optional<HostGuard::Refusal> HostGuard::CheckOrigin(const HttpRequest& request) const {
  const std::string_view host = request.Header("host");
  // HTTP/1.0 needs none, and no browser speaks it.
  const bool has_host = request.version >= 11 || !host.empty();
  if (has_host && !AllowsHost(host)) {
    return Refusal{.status = 403,
                   .message = fmt::format("Host: this server is not called \"{}\"; call it by its "
                                          "address, or start it with --http-hosts and the name",
                                          Printable(host))};
  }
  if (!AllowsOrigin(request)) {
    return Refusal{.status = 403,
                   .message = fmt::format("Origin: pages of \"{}\" may not use this server; start "
                                          "it with --http-origins and the origin to allow it",
                                          Printable(request.Header("origin")))};
  }
  return std::nullopt;
}

std::optional<HostGuard::Refusal> HostGuard::CheckKey(const HttpRequest& request) const {
  if (keys_.empty()) return std::nullopt;
  constexpr std::string_view kBearer = "bearer ";
  std::string_view key = request.Header("x-api-key");
  const std::string_view authorization = request.Header("authorization");
  if (authorization.size() > kBearer.size() &&
      EqualIgnoringCase(authorization.substr(0, kBearer.size()), kBearer)) {
    key = authorization.substr(kBearer.size());
  }
  KeyHash hash{};
  crypto_generichash(hash.data(), hash.size(), reinterpret_cast<const unsigned char*>(key.data()),
                     key.size(), nullptr, 0);
  int found = 0;
  for (const KeyHash& known : keys_) {
    found |= static_cast<int>(sodium_memcmp(hash.data(), known.data(), hash.size()) == 0);
  }
  if (found != 0 && !key.empty()) return std::nullopt;
  return Refusal{
      .status = 401,
      .message = key.empty() ? "this server wants an API key: send Authorization: Bearer KEY, or "
                               "x-api-key: KEY"
                             : "the API key is not one of this server's"};
}

HttpHeaders HostGuard::CorsHeaders(const HttpRequest& request) const {
  const std::string_view origin = request.Header("origin");
  if (origin.empty() || !AllowsOrigin(request)) return {};
  return {{"Access-Control-Allow-Origin", std::string(origin)},
          {"Access-Control-Expose-Headers", "x-request-id, request-id, retry-after"},
          {"Vary", "Origin"}};
}

bool HostGuard::IsPreflight(const HttpRequest& request) {
  return request.method == "OPTIONS" && request.HasHeader("origin") &&
         request.HasHeader("access-control-request-method");
}

HttpResponse HostGuard::Preflight(const HttpRequest& request, std::string_view methods) const {
  HttpResponse response{.status = 204};
  response.headers.emplace_back("Access-Control-Allow-Methods", std::string(methods));
  // The names come from the client, and were checked as a header's value.
  std::string headers(request.Header("access-control-request-headers"));
  if (headers.empty()) headers = "authorization, content-type, x-api-key";
  response.headers.emplace_back("Access-Control-Allow-Headers", std::move(headers));
  response.headers.emplace_back("Access-Control-Max-Age", "600");
  return response;
}

}  // namespace tandem::frontend
