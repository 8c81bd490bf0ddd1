#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/system/standard_output.h"
#include "fmt/chrono.h"
#include "frontend/client/client.h"
#include "launcher/commands/commands.h"
#include "launcher/commands/json_output.h"
#include "launcher/commands/status_screen.h"
#include "launcher/commands/status_text.h"
#include "launcher/commands/told_client.h"

namespace tandem::launcher {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

/// How long a watched server may take to answer before it counts as gone for this look.
constexpr auto kWatchTimeout = std::chrono::milliseconds(3000);

/// A server that may come and go.
class WatchedServer {
 public:
  explicit WatchedServer(std::string endpoint)
      : options_{.endpoint = std::move(endpoint), .timeout = kWatchTimeout} {}

  absl::StatusOr<json> Look() {
    if (client_ == nullptr) {
      TANDEM_ASSIGN_OR_RETURN(client_, frontend::Client::Connect(options_));
    }
    absl::StatusOr<json> status = client_->ServerStatus();
    if (!status.ok()) client_.reset();
    return status;
  }

 private:
  const frontend::ClientOptions options_;
  std::unique_ptr<frontend::Client> client_;
};

absl::Status Watch(const StatusOptions& options) {
  std::optional<StatusScreen> screen;
  if (!options.json) screen.emplace();
  WatchedServer server(options.connect);
  const auto interval =
      std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(*options.watch));
  json previous;
  while (true) {
    const Clock::time_point begin = Clock::now();
    const absl::StatusOr<json> status = server.Look();
    if (absl::IsInvalidArgument(status.status())) {  // it will not get better
      return options.sources.Blame("--connect", status.status());
    }
    if (options.json) {
      const json document =
          status.ok() ? *status : json{{"type", "error"}, {"message", Message(status.status())}};
      WriteOutput(JsonText(document));
    } else {
      const std::time_t now = std::time(nullptr);
      screen->Show(fmt::format("{:%H:%M:%S}  {}\n", fmt::localtime(now), options.connect) +
                   (status.ok() ? StatusText(*status, previous.is_null() ? nullptr : &previous)
                                : Message(status.status()) + "\nTrying again.\n"));
    }
    TANDEM_RETURN_IF_ERROR(FlushOutput());
    previous = status.ok() ? *status : json();
    std::this_thread::sleep_until(begin + interval);
  }
}

}  // namespace

absl::Status ShowStatus(const StatusOptions& options) {
  if (options.watch) return Watch(options);
  const auto client = ConnectTold(options.connect);
  if (!client.ok()) return options.sources.Blame("--connect", client.status());
  TANDEM_ASSIGN_OR_RETURN(const json status, (*client)->ServerStatus());
  WriteOutput(options.json ? JsonText(status) : StatusText(status));
  return absl::OkStatus();
}

}  // namespace tandem::launcher
