#include <cstdio>
#include <nlohmann/json.hpp>

#include "frontend/client.h"
#include "launcher/commands.h"

namespace tandem::launcher {
namespace {

using nlohmann::json;

/// A status document of a server for people. Fields that the server did not send show as null.
std::string StatusText(const json& s) {
  const auto at = [&s](const char* pointer) {
    const json::json_pointer place(pointer);
    return s.contains(place) ? s[place] : json();
  };
  const json name = at("/model/name");
  std::string text = fmt::format("{}: context {}, up {:.0f} s\n",
                                 name.is_string() ? name.get<std::string>() : "a model",
                                 at("/model/context").dump(), s.value("uptime_seconds", 0.0));
  for (const json& rank : at("/ranks")) {
    text += fmt::format("  rank {} on {}: {}, {} bytes of weights\n", rank["rank"].dump(),
                        rank.value("host", "?"), rank.value("device", "?"),
                        rank["weight_bytes"].dump());
  }
  text += fmt::format(
      "requests: {} running, {} waiting, {} answered, {} cancelled, {} failed\n"
      "pages: {} of {} used\n"
      "tokens: {} read, {} generated, {} tokens/s now\n",
      at("/requests/running").dump(), at("/requests/waiting").dump(),
      at("/requests/answered").dump(), at("/requests/cancelled").dump(),
      at("/requests/failed").dump(), at("/pages/used").dump(), at("/pages/total").dump(),
      at("/totals/tokens_prefilled").dump(), at("/totals/tokens_generated").dump(),
      at("/rates/tokens_per_second").dump());
  return text;
}

}  // namespace

absl::Status ShowStatus(const StatusOptions& options) {
  frontend::ClientOptions client_options;
  client_options.endpoint = options.connect;
  TANDEM_ASSIGN_OR_RETURN(const auto client, frontend::Client::Connect(client_options));
  TANDEM_ASSIGN_OR_RETURN(const json status, client->ServerStatus());
  const std::string text = options.json
                               ? status.dump(-1, ' ', false, json::error_handler_t::replace) + "\n"
                               : StatusText(status);
  std::fputs(text.c_str(), stdout);
  return absl::OkStatus();
}

}  // namespace tandem::launcher
