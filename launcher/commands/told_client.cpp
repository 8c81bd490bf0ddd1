#include "launcher/commands/told_client.h"

#include <netdb.h>
#include <sys/socket.h>

#include <chrono>
#include <cstdio>
#include <string_view>

#include "frontend/client/terminal_text.h"

namespace tandem::launcher {

namespace {

/// That the host's name in an endpoint has an address: ZeroMQ tries a name that has none as long as
/// it tries a server that is not there.
absl::Status CheckName(const std::string& endpoint) {
  constexpr std::string_view kTcp = "tcp://";
  const size_t colon = endpoint.rfind(':');
  if (!endpoint.starts_with(kTcp) || colon <= kTcp.size()) return absl::OkStatus();
  std::string host = endpoint.substr(kTcp.size(), colon - kTcp.size());
  host.erase(0, host.rfind(';') + 1);  // an address of ours may stand before
  if (host.empty() || host.front() == '[') return absl::OkStatus();
  addrinfo* found = nullptr;
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  const int error = getaddrinfo(host.c_str(), nullptr, &hints, &found);
  if (error == 0) {
    freeaddrinfo(found);
    return absl::OkStatus();
  }
  return FailedPrecondition(
      "cannot connect to {}: the name {} has no address ({}); check the name, or give the address",
      frontend::TerminalText().Clean(endpoint), frontend::TerminalText().Clean(host),
      gai_strerror(error));
}

}  // namespace

absl::StatusOr<std::unique_ptr<frontend::Client>> ConnectTold(const std::string& endpoint) {
  TANDEM_RETURN_IF_ERROR(CheckName(endpoint));
  frontend::ClientOptions options;
  options.endpoint = endpoint;
  options.on_silence = [endpoint, timeout = options.timeout] {
    const std::string text = fmt::format("tandem: no answer from {} yet; trying for {:.0f} s\n",
                                         frontend::TerminalText().Clean(endpoint),
                                         std::chrono::duration<double>(timeout).count());
    std::fputs(text.c_str(), stderr);
  };
  options.on_notice = [](const std::string& notice) {
    std::fputs(fmt::format("\ntandem: {}\n", frontend::TerminalText().Clean(notice)).c_str(),
               stderr);
  };
  return frontend::Client::Connect(options);
}

}  // namespace tandem::launcher
