#include "launcher/commands/status_text.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>
#include <tuple>
#include <vector>

#include "core/base/counted.h"
#include "fmt/format.h"
#include "frontend/client/terminal_text.h"

namespace tandem::launcher {
namespace {

using nlohmann::json;
using Pointer = json::json_pointer;

constexpr int kBarWidth = 40;

std::optional<double> NumberAt(const json& document, const char* place) {
  const Pointer pointer(place);
  if (!document.contains(pointer) || !document[pointer].is_number()) return std::nullopt;
  return document[pointer].get<double>();
}

std::string WordAt(const json& document, const char* place) {
  const Pointer pointer(place);
  if (!document.contains(pointer) || !document[pointer].is_string()) return "?";
  std::string word = document[pointer].get<std::string>();
  std::replace_if(
      word.begin(), word.end(), [](char c) { return c == '\n' || c == '\t'; }, ' ');
  return frontend::TerminalText().Clean(word);
}

std::string Count(std::optional<double> number) {
  return number ? fmt::format("{:.0f}", *number) : "?";
}
std::string CountAt(const json& document, const char* place) {
  return Count(NumberAt(document, place));
}

/// "1 step", "2 steps", "? steps".
std::string CountedAt(const json& document, const char* place, std::string_view what) {
  const std::optional<double> number = NumberAt(document, place);
  return number && std::abs(*number) < 1e18 ? Counted(std::llround(*number), what)
                                            : fmt::format("{} {}s", Count(number), what);
}

std::string MebibytesText(std::optional<double> bytes) {
  return bytes ? fmt::format("{:.1f} MiB", *bytes / (1 << 20)) : "?";
}

/// "34 %" of the whole, or "-" where there is no whole.
std::string Share(std::optional<double> part, std::optional<double> whole) {
  return part && whole && *whole > 0 ? fmt::format("{:.0f} %", 100 * *part / *whole) : "-";
}

std::string Duration(std::optional<double> seconds) {
  if (!seconds) return "?";
  const auto whole = static_cast<int64_t>(std::clamp(*seconds, 0.0, 1e15));
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {} s", whole / 60, whole % 60);
  if (whole < 86400) return fmt::format("{} h {} min", whole / 3600, whole % 3600 / 60);
  return fmt::format("{} d {} h", whole / 86400, whole % 86400 / 3600);
}

/// "[####----      ]": pages in use, pages kept, free ones. Empty where the numbers make no sense.
std::string PagesBar(const json& pages) {
  const auto total = NumberAt(pages, "/total"), used = NumberAt(pages, "/used");
  if (!total || !used || *total <= 0) return "";
  const auto columns = [&](double part) {
    return static_cast<int>(std::lround(kBarWidth * std::clamp(part / *total, 0.0, 1.0)));
  };
  const int in_use = columns(*used);
  const int kept = columns(*used + NumberAt(pages, "/cached").value_or(0)) - in_use;
  return fmt::format("  [{:#<{}}{:-<{}}{:<{}}]", "", in_use, "", std::max(kept, 0), "",
                     kBarWidth - in_use - std::max(kept, 0));
}

/// What outlives the server, and what keeps it from doing so.
std::string StateText(const json& status) {
  if (!status.contains("state")) return "";
  const auto at = [&](const char* place) { return CountAt(status, place); };
  const Pointer encrypted("/state/encrypted");
  std::string text = fmt::format(
      "state      {} in {}{}\n", CountedAt(status, "/state/conversations", "conversation"),
      WordAt(status, "/state/directory"),
      status.contains(encrypted) && status[encrypted] == true ? ", encrypted" : "");
  const Pointer copied_to("/state/copied/host");
  if (status.contains(copied_to)) {
    text += status[copied_to].is_string() ? fmt::format("           copied to host {}\n",
                                                        WordAt(status, "/state/copied/host"))
                                          : "           not copied to another host now\n";
  }
  // What is so of one, and of several.
  for (const auto& [place, one, several] :
       {std::tuple{"/state/unreadable", "conversation on disk cannot be read; the log names it",
                   "conversations on disk cannot be read; the log names them"},
        {"/state/unwritten_changes", "change is in memory only", "changes are in memory only"},
        {"/state/copied/uncopied_changes", "change is on this host's disk only",
         "changes are on this host's disk only"},
        {"/state/unfinished_erasures", "deletion is not finished", "deletions are not finished"}}) {
    const double count = NumberAt(status, place).value_or(0);
    if (count > 0) text += fmt::format("           {} {}\n", at(place), count == 1 ? one : several);
  }
  const Pointer damage("/state/damage");
  if (status.contains(damage) && status[damage].is_string()) {
    text += fmt::format("           found damaged: {}\n", WordAt(status, "/state/damage"));
  }
  const Pointer trouble("/state/trouble");
  if (status.contains(trouble) && status[trouble].is_string()) {
    text += fmt::format("           not durable: {}\n", WordAt(status, "/state/trouble"));
  }
  return text;
}

/// Where reused tokens came from, as far as it was anywhere but the device.
std::string ReusedFromText(const json& status) {
  std::string text;
  for (const auto& [place, what] : {std::pair{"/reuse/reused_from/device", "from the device"},
                                    {"/reuse/reused_from/host", "from memory"},
                                    {"/reuse/reused_from/disk", "from disk"},
                                    {"/reuse/reused_from/remote", "from other hosts"}}) {
    if (NumberAt(status, place).value_or(0) <= 0) continue;
    text +=
        fmt::format("{}{} {}", text.empty() ? "           " : ", ", CountAt(status, place), what);
  }
  return text.empty() ? text : text + "\n";
}

/// " (2 too_large, 1 overloaded)": why, where any were.
std::string RefusedText(const json& status) {
  std::string text;
  const json refused = status.value("refused", json::object());
  for (const std::string_view code :
       {"invalid_argument", "not_found", "too_large", "overloaded", "unavailable", "unimplemented",
        "deadline_exceeded", "cancelled", "internal"}) {
    const std::string place = fmt::format("/{}", code);
    if (NumberAt(refused, place.c_str()).value_or(0) <= 0) continue;
    text +=
        fmt::format("{}{} {}", text.empty() ? " (" : ", ", CountAt(refused, place.c_str()), code);
  }
  return text.empty() ? text : text + ")";
}

/// Tokens a second between two documents, by a counter of theirs.
std::optional<double> RateBetween(const json& previous, const json& now, const char* counter) {
  const auto begin = NumberAt(previous, "/uptime_seconds"), end = NumberAt(now, "/uptime_seconds");
  const auto before = NumberAt(previous, counter), after = NumberAt(now, counter);
  // A server that was started again counts from 0.
  if (!begin || !end || *end <= *begin || !before || !after || *after < *before) return {};
  return (*after - *before) / (*end - *begin);
}

/// Whether ranks were started again, how often and why.
std::string RecoveryText(const json& status) {
  const Pointer recovery("/recovery");
  if (!status.contains(recovery)) return "";
  const json& now = status[recovery];
  const std::string reason = WordAt(now, "/reason");
  if (const Pointer down("/down"); now.contains(down) && now[down] == true) {
    return fmt::format("epoch      {}: the ranks are being started again, for {} so far: {}\n",
                       CountAt(now, "/epoch"), Duration(NumberAt(now, "/down_seconds")), reason);
  }
  const double restarts = NumberAt(now, "/restarts").value_or(0);
  if (restarts <= 0) return "";
  return fmt::format("epoch      {}: {}, in {:.1f} s; the last one: {}\n", CountAt(now, "/epoch"),
                     CountedAt(now, "/restarts", "restart"),
                     NumberAt(now, "/lost_seconds").value_or(0), reason);
}

std::string WeightsText(const json& rank) {
  const bool mapped =
      rank.is_object() && rank.contains("weights_mapped") && rank["weights_mapped"] == true;
  return MebibytesText(NumberAt(rank, "/weight_bytes")) + (mapped ? ", mapped" : "");
}

std::string RanksText(const json& status) {
  const json ranks = status.value("ranks", json::array());
  std::vector<std::array<std::string, 5>> rows = {
      {"rank", "host", "device", "weights", "all-reduce"}};
  for (const json& rank : ranks) {
    const auto reducing = NumberAt(rank, "/reduce_seconds");
    rows.push_back({CountAt(rank, "/rank"), WordAt(rank, "/host"), WordAt(rank, "/device"),
                    WeightsText(rank), reducing ? fmt::format("{:.1f} s", *reducing) : "?"});
  }
  if (ranks.size() == 1) {
    for (auto& row : rows) row.back().clear();  // there is nobody to add up with
  }
  std::array<size_t, 5> widths{};
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows) {
    text += fmt::format("  {:>{}}  {:<{}}  {:<{}}  {:>{}}", row[0], widths[0], row[1], widths[1],
                        row[2], widths[2], row[3], widths[3]);
    if (!row[4].empty()) text += fmt::format("  {:>{}}", row[4], widths[4]);
    text += '\n';
  }
  return text;
}

}  // namespace

std::string StatusText(const json& status, const json* previous) {
  if (!status.is_object()) return "the server sent no status document\n";
  const auto now = [&status](const char* place) { return CountAt(status, place); };
  std::optional<double> generated = NumberAt(status, "/rates/tokens_per_second"), read;
  if (previous != nullptr) {
    generated = RateBetween(*previous, status, "/totals/tokens_generated");
    read = RateBetween(*previous, status, "/totals/tokens_prefilled");
  }
  std::string text =
      fmt::format("{}: context {}, up {}\n", WordAt(status, "/model/name"), now("/model/context"),
                  Duration(NumberAt(status, "/uptime_seconds")));
  text += RanksText(status);
  text += RecoveryText(status);
  text += fmt::format("requests   {} running, {} waiting; {} answered, {} cancelled, {} failed\n",
                      now("/requests/running"), now("/requests/waiting"), now("/requests/answered"),
                      now("/requests/cancelled"), now("/requests/failed"));
  text +=
      fmt::format("clients    {} connected; {}{}\n", now("/clients"),
                  CountedAt(status, "/refused_frames", "frame") + " refused", RefusedText(status));
  if (status.contains("http")) {
    text += fmt::format("           {} over HTTP at {}; {} answered\n",
                        CountedAt(status, "/http/connections", "connection"),
                        WordAt(status, "/http/address"),
                        CountedAt(status, "/http/requests", "request"));
  }
  if (const double unknown = NumberAt(status, "/unknown_fields").value_or(0); unknown > 0) {
    text +=
        fmt::format("           {} that nobody knows, in requests; the log names {}\n",
                    CountedAt(status, "/unknown_fields", "field"), unknown == 1 ? "it" : "them");
  }
  text += StateText(status);
  text += fmt::format("pages      {} used, {} cached, of {}{}\n", now("/pages/used"),
                      now("/pages/cached"), now("/pages/total"),
                      PagesBar(status.value("pages", json::object())));
  text += fmt::format("preempted  {}\n", CountedAt(status, "/totals/preemptions", "time"));
  if (status.contains("host_tier")) {
    text += fmt::format("           {} to the host tier, {} back; {} of {} are there\n",
                        CountedAt(status, "/host_tier/spilled", "time"), now("/host_tier/returned"),
                        MebibytesText(NumberAt(status, "/host_tier/bytes")),
                        MebibytesText(NumberAt(status, "/host_tier/bytes_limit")));
  }
  text += fmt::format(
      "reused     {} of {}, {}\n", now("/reuse/reused_tokens"),
      CountedAt(status, "/reuse/prompt_tokens", "prompt token"),
      Share(NumberAt(status, "/reuse/reused_tokens"), NumberAt(status, "/reuse/prompt_tokens")));
  text += ReusedFromText(status);
  if (status.contains("records")) {
    text += fmt::format("kv         {} saved, {} fetched, {} damaged, {} not saved\n",
                        CountedAt(status, "/records/saved", "record"), now("/records/fetched"),
                        now("/records/damaged"),
                        Count(NumberAt(status, "/records/dropped").value_or(0) +
                              NumberAt(status, "/records/refused").value_or(0)));
  }
  text += fmt::format("drafts     {} of {} accepted, {}\n", now("/speculation/accepted_tokens"),
                      CountedAt(status, "/speculation/drafted_tokens", "token"),
                      Share(NumberAt(status, "/speculation/accepted_tokens"),
                            NumberAt(status, "/speculation/drafted_tokens")));
  text += fmt::format("tokens     {} generated, {} read, in {}\n", now("/totals/tokens_generated"),
                      now("/totals/tokens_prefilled"), CountedAt(status, "/totals/steps", "step"));
  text += fmt::format("tokens/s   {} generated", Count(generated));
  if (read) text += fmt::format(", {} read", Count(read));
  return text + "\n";
}

std::string FitTerminal(const std::string& text, int columns, int lines) {
  std::string fitting;
  int column = 0;
  for (const char c : text) {
    if (c == '\n') {
      if (--lines <= 0) return fitting;
      column = 0;
      fitting += c;
      continue;
    }
    // Bytes that go on with a character belong to the column of its first one.
    if ((static_cast<unsigned char>(c) & 0xC0) != 0x80) ++column;
    if (column <= columns) fitting += c;
  }
  return fitting;
}

}  // namespace tandem::launcher
