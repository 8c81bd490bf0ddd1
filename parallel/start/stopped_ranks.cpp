#include "parallel/start/stopped_ranks.h"

#include <fmt/format.h>
#include <unistd.h>

#include <charconv>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <string_view>

namespace tandem::parallel {
namespace {

std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// The value of a variable in a process's environment, as /proc has it.
std::optional<std::string> Variable(std::string_view environment, std::string_view name) {
  for (size_t at = 0; at < environment.size();) {
    const size_t end = std::min(environment.find('\0', at), environment.size());
    const std::string_view entry = environment.substr(at, end - at);
    if (entry.size() > name.size() && entry.starts_with(name) && entry[name.size()] == '=') {
      return std::string(entry.substr(name.size() + 1));
    }
    at = end + 1;
  }
  return std::nullopt;
}

std::string_view StateText(char state) {
  switch (state) {
    case 'T':
    case 't':
      return "is stopped";
    case 'D':
      return "waits for a disk";
    default:
      return "";
  }
}

}  // namespace

std::string StoppedRanksHere() {
  constexpr std::string_view kJob = "PMIX_NAMESPACE";
  constexpr std::string_view kRank = "PMIX_RANK";
  const auto job = Variable(ReadAll("/proc/self/environ"), kJob);
  if (!job) return "";
  std::string all;
  std::error_code error;
  for (std::filesystem::directory_iterator entry("/proc", error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    int pid = 0;
    if (std::from_chars(name.data(), name.data() + name.size(), pid).ec != std::errc()) continue;
    const std::string environment = ReadAll(entry->path().string() + "/environ");
    const auto rank = Variable(environment, kRank);
    if (pid == getpid() || !rank || Variable(environment, kJob) != job) continue;
    const std::string stat = ReadAll(entry->path().string() + "/stat");
    const size_t name_end = stat.rfind(')');
    if (name_end == std::string::npos || name_end + 2 >= stat.size()) continue;
    const std::string_view state = StateText(stat[name_end + 2]);
    if (state.empty()) continue;
    all += fmt::format("{}rank {} (process {}) {}", all.empty() ? "" : "; ", *rank, pid, state);
  }
  return all;
}

}  // namespace tandem::parallel
