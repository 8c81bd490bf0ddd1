#include "launcher/job/job_lines.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <optional>
#include <regex>
#include <sstream>
#include <utility>

#include "launcher/job/reach_host.h"
#include "launcher/options/reported.h"

namespace tandem::launcher {
namespace {

constexpr size_t kMostNotices = size_t{64} << 10;  // bytes

bool IsOpenMpis(const std::string& line) {
  static const std::regex kHostAndProcess(R"(^\[[^\] ]+:\d+\] )");
  return line == "\n" || line.starts_with("mpirun") || line.starts_with("Type 'mpirun ") ||
         line.starts_with("***") || std::regex_search(line, kHostAndProcess);
}

}  // namespace

std::string JobLines::Take(std::string line) {
  if (const std::optional<parallel::StartNews> news = parallel::ReadStartLine(line)) {
    told_ = true;
    starts_.Hear(*news);
    if (hosts_.insert(news->host).second && tells_hosts_) {
      spdlog::info("host {} is there: rank {} starts", news->host, news->rank);
    }
    return "";
  }
  told_ = told_ || TellsOfHost(line);
  const bool frame = line.starts_with("--------------------");  // of a notice
  if (frame) in_notice_ = !in_notice_;
  const std::string unreached = UnreachedHost(line.substr(0, line.size() - 1));
  if (!unreached.empty()) {
    unreached_hosts_.push_back(unreached.substr(0, unreached.find(": ")));
    unreached_ += (unreached_.empty() ? "cannot reach host " : "; host ") + unreached;
  } else if (!frame && !in_notice_ && !IsOpenMpis(line)) {
    // An error that all ranks have is one line.
    if (!line.starts_with(kReportPrefix) || TellsOfHost(line)) return line;
    return std::exchange(report_, line) == line ? "" : line;
  }
  if (notices_.size() < kMostNotices) notices_ += line;
  return spdlog::should_log(spdlog::level::debug) ? line : "";
}

std::string JobLines::Reason() const {
  if (unreached_.empty()) return ReasonFromMpirun(notices_);
  return unreached_ + "; mend that, or take it out of the list of hosts";
}

std::string ReasonFromMpirun(const std::string& notices) {
  // mpirun wraps its sentences, so that a line may end anywhere.
  const std::string text = std::regex_replace(notices, std::regex("\\s+"), " ");
  std::smatch match;
  static const std::regex kSignal(
      "process rank (\\d+) with PID \\d+ on node (\\S+) exited on signal (\\d+) \\(([^)]*)\\)");
  if (std::regex_search(text, match, kSignal)) {
    return fmt::format("rank {} on host {} was ended by signal {} ({})", match[1].str(),
                       match[2].str(), match[3].str(), match[4].str());
  }
  static const std::regex kExit("Process name: \\[\\[\\d+,\\d+\\],(\\d+)\\] Exit code: (\\d+)");
  if (std::regex_search(text, match, kExit)) {
    return fmt::format("rank {} ended with exit status {}", match[1].str(), match[2].str());
  }
  return "";
}

std::string FirstParagraph(const std::string& notices) {
  std::istringstream lines(notices);
  std::string paragraph;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line.starts_with("---") ? "" : line);
    const bool blank = (words >> std::ws).eof();
    if (blank && !paragraph.empty() && !paragraph.ends_with(':')) break;
    for (std::string word; words >> word;) paragraph += (paragraph.empty() ? "" : " ") + word;
  }
  while (paragraph.ends_with('.') || paragraph.ends_with(':')) paragraph.pop_back();
  return paragraph;
}

}  // namespace tandem::launcher
