#include "launcher/supervision/spare_hosts.h"

#include <fmt/ranges.h>
#include <spdlog/spdlog.h>

#include <fstream>
#include <sstream>
#include <utility>
#include <vector>

#include "core/base/counted.h"
#include "core/system/text_file.h"

namespace tandem::launcher {
namespace {

constexpr auto kProbeInterval = std::chrono::seconds(5);
constexpr auto kPauseAfterFailure = std::chrono::seconds(60);
constexpr int64_t kFileBytes = int64_t{1} << 20;

std::vector<std::string> NamesIn(const std::string& list) {
  std::vector<std::string> names;
  std::istringstream in(list);
  for (std::string name; std::getline(in, name, ',');) {
    std::istringstream word(name);
    if (word >> name) names.push_back(name);
  }
  return names;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SpareHosts>> SpareHosts::Make(const LaunchOptions& launch) {
  if (launch.hostfile.empty()) {
    if (launch.spares.empty()) return nullptr;
    return InvalidArgument(
        "--spares: they take the place of hosts of a --hostfile; give that, too");
  }
  if (launch.spares.empty() && !launch.elastic) return nullptr;
  TANDEM_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(launch.hostfile));
  std::vector<HostLine> hosts = ReadHostLines(text);
  if (hosts.empty()) return InvalidArgument("--hostfile {}: it names no host", launch.hostfile);
  TANDEM_ASSIGN_OR_RETURN(
      TemporaryFolder folder,
      TemporaryFolder::Make("hosts", {TemporaryPlace(), "/dev/shm"}, kFileBytes));
  return std::unique_ptr<SpareHosts>(new SpareHosts(
      launch, HostPool(std::move(hosts), NamesIn(launch.spares), launch.ranks, launch.elastic),
      std::move(folder)));
}

SpareHosts::SpareHosts(const LaunchOptions& launch, HostPool pool, TemporaryFolder folder)
    : launch_(launch), pool_(std::move(pool)), folder_(std::move(folder)) {}

void SpareHosts::Unreached(const std::string& host) {
  const MutexLock lock(mutex_);
  unreached_.insert(host);
}

bool SpareHosts::TakeUnreached() {
  std::set<std::string> unreached;
  {
    const MutexLock lock(mutex_);
    unreached.swap(unreached_);
  }
  bool news = false;
  for (const std::string& host : unreached) {
    if (!pool_.Lose(host)) continue;
    news = true;
    spdlog::warn("host {} is lost: ranks are started without it until it can be reached", host);
  }
  return news;
}

bool SpareHosts::Back(Clock::time_point now) {
  if (pool_.lost().empty()) return false;
  if (!next_probe_) next_probe_ = now + kProbeInterval;
  if (probe_ == nullptr) {
    if (now < *next_probe_) return false;
    auto next = pool_.lost().upper_bound(last_probed_);
    if (next == pool_.lost().end()) next = pool_.lost().begin();
    last_probed_ = *next;
    probe_ = std::make_unique<HostProbe>(launch_, *next);
  }
  const std::optional<bool> reached = probe_->Reached();
  if (!reached) return false;
  const std::string host = probe_->host();
  probe_.reset();
  next_probe_ = now + kProbeInterval;
  if (!*reached || !pool_.Find(host)) return false;
  spdlog::info("host {} can be reached again", host);
  last_back_ = host;
  return true;
}

void SpareHosts::NotBack(Clock::time_point now) {
  pool_.Lose(last_back_);
  next_probe_ = now + kPauseAfterFailure;
}

absl::StatusOr<LaunchOptions> SpareHosts::Choose() {
  const std::optional<HostPool::Plan> plan = pool_.Next();
  if (!plan) {
    return Unavailable(
        "{} lost, no spare one is left, and without --elastic there are no fewer ranks: {}",
        Counted(std::ssize(pool_.lost()), "host is", "hosts are"), fmt::join(pool_.lost(), ", "));
  }
  LaunchOptions launch = launch_;
  launch.ranks = plan->ranks;
  if (pool_.lost().empty()) return launch;
  launch.hostfile = fmt::format("{}/hosts-{}", folder_.path(), ++files_);
  std::ofstream file(launch.hostfile);
  if (!(file << plan->Text()).flush()) {
    return ResourceExhausted("{}: it cannot be written", launch.hostfile);
  }
  return launch;
}

}  // namespace tandem::launcher
