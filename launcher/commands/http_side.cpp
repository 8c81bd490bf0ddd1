#include "launcher/commands/http_side.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "core/base/descriptor_limit.h"
#include "core/system/text_file.h"
#include "frontend/http/gateway.h"
#include "frontend/http/service_backend.h"
#include "launcher/options/version.h"

namespace tandem::launcher {
namespace {

/// The parts of a text between separators, without white space around them; empty ones are left
/// out.
std::vector<std::string> PartsOf(std::string_view text, char separator) {
  constexpr std::string_view kSpace = " \t\r";
  std::vector<std::string> parts;
  while (!text.empty()) {
    const size_t end = std::min(text.find(separator), text.size());
    std::string_view part = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    const size_t first = part.find_first_not_of(kSpace);
    if (first == std::string_view::npos) continue;
    part = part.substr(first, part.find_last_not_of(kSpace) - first + 1);
    parts.emplace_back(part);
  }
  return parts;
}

/// Keys as they may stand in a header. Messages tell none of a key.
absl::Status CheckKeys(const std::string& path, const std::vector<std::string>& keys) {
  constexpr size_t kMostBytes = 4096;
  for (size_t i = 0; i < keys.size(); ++i) {
    if (keys[i].size() > kMostBytes) {
      return InvalidArgument(
          "--api-key-file {}: key {} has {} bytes, more than {}, which no request "
          "could send; write one key a line",
          path, i + 1, keys[i].size(), kMostBytes);
    }
    if (!std::all_of(keys[i].begin(), keys[i].end(), [](char c) { return c > ' ' && c <= '~'; })) {
      return InvalidArgument(
          "--api-key-file {}: key {} has a space or another character that is "
          "not printable ASCII; write one key a line",
          path, i + 1);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> ReadKeys(const std::string& path) {
  constexpr size_t kMostBytes = size_t{1} << 20;
  struct stat facts {};
  if (stat(path.c_str(), &facts) == 0 && (facts.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
    return InvalidArgument("--api-key-file {}: others may read it (mode {:04o}); run: chmod 600 {}",
                           path, facts.st_mode & 07777U, path);
  }
  const absl::StatusOr<std::string> text = ReadTextFile(path, kMostBytes);
  if (!text.ok()) return InvalidArgument("--api-key-file: {}", Message(text.status()));
  std::vector<std::string> keys = PartsOf(*text, '\n');
  if (keys.empty()) {
    return InvalidArgument("--api-key-file {}: there is no key in it; write one a line", path);
  }
  TANDEM_RETURN_IF_ERROR(CheckKeys(path, keys));
  return keys;
}

/// Names as HostGuardOptions has them.
absl::StatusOr<std::vector<std::string>> ReadHosts(const std::string& list) {
  std::vector<std::string> hosts = PartsOf(list, ',');
  for (std::string& host : hosts) {
    if (host == "*") continue;
    // An IPv6 address has brackets in a request, and may be listed without.
    const bool bare_v6 = !host.starts_with('[') && std::count(host.begin(), host.end(), ':') > 1;
    const std::string name = frontend::HostWithoutPort(bare_v6 ? "[" + host + "]" : host);
    const bool has_port = !bare_v6 && host.find(':', host.rfind(']') + 1) != std::string::npos;
    constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyz0123456789.-_:";
    if (name.empty() || has_port || name.find_first_not_of(kLetters) != std::string::npos) {
      return InvalidArgument(
          "--http-hosts {}: expected names without scheme, port and path, as in example.org, or *",
          host);
    }
    host = name;
  }
  return hosts;
}

/// As browsers send them: nothing behind the port.
absl::StatusOr<std::vector<std::string>> ReadOrigins(const std::string& list) {
  std::vector<std::string> origins = PartsOf(list, ',');
  for (const std::string& origin : origins) {
    if (origin == "*" || origin == "null") continue;
    const size_t scheme = origin.find("://");
    const std::string host = scheme == std::string::npos ? "" : origin.substr(scheme + 3);
    if (scheme == 0 || frontend::HostWithoutPort(host).empty() ||
        host.find_first_of("/?# ") != std::string::npos) {
      return InvalidArgument(
          "--http-origins {}: expected origins of web pages, without a path or a slash at the end, "
          "as in https://example.org or http://localhost:3000, or *",
          origin);
    }
  }
  return origins;
}

absl::StatusOr<std::shared_ptr<std::FILE>> OpenAccessLog(const std::string& path) {
  if (path.empty()) return std::shared_ptr<std::FILE>();
  if (path == "-") return std::shared_ptr<std::FILE>(stderr, [](std::FILE*) {});
  std::FILE* file = std::fopen(path.c_str(), "ae");
  if (file == nullptr) {
    return InvalidArgument(
        "--access-log {}: it cannot be written; name a file in a directory that "
        "is there and yours",
        path);
  }
  return std::shared_ptr<std::FILE>(file, [](std::FILE* open) { std::fclose(open); });
}

ConnectionShare WantedConnections(const HttpOptions& options) {
  return {.served = options.clients, .told = frontend::HttpServerOptions::kToldClients};
}

/// Takes no more connections than there are file descriptors for.
absl::StatusOr<ConnectionShare> FitHttpClients(const HttpOptions& options,
                                               int64_t other_descriptors) {
  const int64_t others = OpenDescriptors() + other_descriptors;
  const int64_t left = DescriptorLimit() - others;
  if (left < HttpSide::kLeastDescriptors) {
    return CheckDescriptors(others + HttpSide::kLeastDescriptors);
  }
  const ConnectionShare fit = ShareDescriptors(left, WantedConnections(options));
  if (fit.served < options.clients) {
    spdlog::warn(
        "{} connections over HTTP at most, instead of {}: this process may have {} file "
        "descriptors (ulimit -Hn)",
        fit.served, options.clients, DescriptorLimit());
  }
  return fit;
}

class RunningHttpSide final : public HttpSide {
 public:
  explicit RunningHttpSide(frontend::Service& service) : service_(service), backend_(service) {}
  ~RunningHttpSide() override {
    if (gateway_ == nullptr) return;
    gateway_->Stop();
    if (thread_.joinable()) thread_.join();
  }

  absl::Status Start(frontend::GatewayOptions options) {
    TANDEM_ASSIGN_OR_RETURN(gateway_, frontend::Gateway::Create(std::move(options), backend_));
    thread_ = std::thread([this] { gateway_->Run(); });
    service_.ShowHttp([this] { return gateway_->Status(); });
    return absl::OkStatus();
  }
  const std::string& address() const override { return gateway_->address(); }

 private:
  frontend::Service& service_;
  frontend::ServiceBackend backend_;
  std::unique_ptr<frontend::Gateway> gateway_;
  std::thread thread_;
};

}  // namespace

absl::StatusOr<HttpPrepared> PrepareHttp(const HttpOptions& options, const OptionSources& sources) {
  HttpPrepared prepared;
  if (options.address == "off") return prepared;
  if (!options.key_file.empty()) {
    TANDEM_ASSIGN_OR_RETURN(prepared.keys, ReadKeys(options.key_file));
  }
  TANDEM_ASSIGN_OR_RETURN(prepared.hosts, ReadHosts(options.hosts));
  TANDEM_ASSIGN_OR_RETURN(prepared.origins, ReadOrigins(options.origins));
  TANDEM_ASSIGN_OR_RETURN(prepared.access_log, OpenAccessLog(options.access_log));
  absl::StatusOr<frontend::HttpListener> listening = frontend::ListenForHttp(options.address);
  if (absl::IsFailedPrecondition(listening.status()) && sources.IsDefault("--http")) {
    spdlog::warn("{}; this server goes on without HTTP", Message(listening.status()));
    return prepared;
  }
  TANDEM_ASSIGN_OR_RETURN(frontend::HttpListener listener, std::move(listening));
  if (!listener.loopback && prepared.keys.empty()) {
    spdlog::warn(
        "--http {}: whoever reaches this address may use the server; --api-key-file FILE "
        "asks for a key",
        listener.address);
  }
  prepared.listener = std::make_shared<frontend::HttpListener>(std::move(listener));
  return prepared;
}

int64_t HttpDescriptors(const HttpOptions& options, int64_t other_descriptors) {
  const int64_t left = DescriptorLimit() - OpenDescriptors() - other_descriptors;
  const ConnectionShare wanted = WantedConnections(options);
  return std::clamp(left / 2, HttpSide::kLeastDescriptors,
                    std::max(wanted.served + wanted.told, HttpSide::kLeastDescriptors));
}

absl::StatusOr<std::unique_ptr<HttpSide>> HttpSide::Start(const HttpOptions& options,
                                                          const std::string& model,
                                                          HttpPrepared prepared,
                                                          frontend::Service& service,
                                                          int64_t other_descriptors) {
  frontend::GatewayOptions gateway;
  gateway.http.listener = std::move(prepared.listener);
  gateway.http.request.body_bytes = options.max_body;
  TANDEM_ASSIGN_OR_RETURN(const ConnectionShare share, FitHttpClients(options, other_descriptors));
  gateway.http.clients = share.served;
  gateway.http.told_clients = share.told;
  gateway.guard.hosts = std::move(prepared.hosts);
  gateway.guard.origins = std::move(prepared.origins);
  gateway.guard.keys = std::move(prepared.keys);
  std::vector<std::string> names = PartsOf(options.names, ',');
  if (names.empty()) names = {std::filesystem::path(model).stem(), service.model().name()};
  gateway.model = names.front();
  gateway.aliases.assign(names.begin() + 1, names.end());
  gateway.version = kVersion;
  if (prepared.access_log != nullptr) {
    gateway.access_log = [file = std::move(prepared.access_log)](const std::string& line) {
      // A line that cannot be written is lost; requests go on.
      std::fwrite((line + "\n").data(), 1, line.size() + 1, file.get());
      std::fflush(file.get());
    };
  }
  auto side = std::make_unique<RunningHttpSide>(service);
  TANDEM_RETURN_IF_ERROR(side->Start(std::move(gateway)));
  return side;
}

}  // namespace tandem::launcher
