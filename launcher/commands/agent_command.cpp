#include <sched.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <utility>

#include "core/base/mutex.h"
#include "core/system/standard_output.h"
#include "kv_store/agent/agent_neighbours.h"
#include "kv_store/agent/agent_server.h"
#include "kv_store/peers/peer_registry.h"
#include "kv_store/peers/peer_tier.h"
#include "kv_store/peers/peered_store.h"
#include "kv_store/tiers/disk_tier.h"
#include "kv_store/tiers/tiered_store.h"
#include "kv_store/weights/weight_folders.h"
#include "launcher/commands/commands.h"
#include "launcher/options/stop_signals.h"
#include "launcher/state/kv_agent.h"

namespace tandem::launcher {
namespace {

using std::chrono::milliseconds;

/// The rank that starts the agent may be bound to a core; the agent is there for all ranks.
void UseAllCores() {
  cpu_set_t all;
  std::memset(&all, 0xff, sizeof(all));
  sched_setaffinity(0, sizeof(all), &all);
}

/// The tier on disk. Where it cannot be opened, the log says why, and memory serves alone.
std::vector<kv_store::TieredStore::Behind> DiskOf(const AgentOptions& options) {
  std::vector<kv_store::TieredStore::Behind> behind;
  if (options.state.kv_disk == 0) return behind;
  // Files hold a tenth more than their records until that is collected.
  auto disk = kv_store::DiskTier::Open({.directory = options.directory + "/records",
                                        .limits = {.bytes = options.state.kv_disk / 11 * 10,
                                                   .tenant_bytes = options.state.kv_tenant},
                                        .erasure_mark = ErasurePath(options.directory)});
  if (!disk.ok()) {
    spdlog::error("no KV is kept on disk: {}", Message(disk.status()));
    return behind;
  }
  if (!(*disk)->began_anew().empty()) {
    spdlog::error("{}: all KV on disk was dropped, since it was damaged: {}", options.directory,
                  (*disk)->began_anew());
  }
  behind.push_back({.kind = kv_store::TierKind::kDisk, .tier = *std::move(disk)});
  return behind;
}

/// Looks, once a second, whether an agent still has its directory; calls `lost` where it has not.
class LockWatch {
 public:
  LockWatch(const kv_store::AgentDirectory& held, std::function<void()> lost)
      : thread_([this, &held, lost = std::move(lost)] {
          const MutexLock lock(mutex_);
          while (!stop_) {
            const absl::Status status = held.CheckLocked();
            if (absl::IsDataLoss(status)) {
              spdlog::error("{}: another agent may keep KV there, so this one ends",
                            Message(status));
              lost();
              return;
            }
            changed_.WaitFor(mutex_, std::chrono::seconds(1));
          }
        }) {}
  ~LockWatch() {
    {
      const MutexLock lock(mutex_);
      stop_ = true;
    }
    changed_.NotifyAll();
    thread_.join();
  }
  LockWatch(const LockWatch&) = delete;
  LockWatch& operator=(const LockWatch&) = delete;

 private:
  Mutex mutex_;
  CondVar changed_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace

absl::Status Agent(const AgentOptions& options) {
  umask(S_IRWXG | S_IRWXO);
  UseAllCores();
  const auto policy = kv_store::ParseWritePolicy(options.state.kv_write);
  if (!policy) return InvalidArgument("--kv-write {}: unknown", options.state.kv_write);
  StopSignals signals;
  // Held until everything below is closed: the next agent must find the database free.
  TANDEM_ASSIGN_OR_RETURN(auto held, kv_store::AgentDirectory::Open(options.directory));
  // Several ranks may start one at the same time; the first to come stays.
  if (const absl::Status locked = held.Lock(); !locked.ok()) {
    return absl::IsFailedPrecondition(locked) ? absl::OkStatus() : locked;
  }
  std::unique_ptr<kv_store::OwnedWeightFolders> weights;
  if (options.state.keep_weights != "off") {
    weights = kv_store::OwnedWeightFolders::Make(options.directory);
  }
  TANDEM_ASSIGN_OR_RETURN(auto registry, kv_store::PeerRegistry::Open(options.directory));
  kv_store::TieredStore local(
      {.host = {.bytes = options.state.kv_host_memory, .tenant_bytes = options.state.kv_tenant},
       .policy = *policy},
      DiskOf(options));
  kv_store::PeerTierOptions peer_options;
  peer_options.registry_folder = options.directory + "/peers";
  kv_store::PeerTier peers(registry.keys(), peer_options);
  kv_store::PeeredStore store(local, peers, {.policy = *policy});
  const auto stats_by_tier = [&] {
    auto stats = local.StatsByTier();
    stats.emplace_back(kv_store::TierKind::kRemote, peers.Counts());
    return stats;
  };
  const auto lease = std::make_shared<kv_store::Lease>();
  kv_store::AgentNeighbours neighbours(
      std::move(registry), peers,
      {.tier = local,
       .erase =
           [&](std::span<const kv_store::BlockHash> blocks) { return store.EraseHere(blocks); },
       .stats =
           [&] {
             return kv_store::AgentStats{.all = local.Stats(), .by_tier = local.StatsByTier()};
           }},
      lease, {});
  kv_store::AgentServerOptions server_options;
  server_options.ttl = std::chrono::duration_cast<milliseconds>(
      std::chrono::duration<double>(options.state.agent_ttl));
  TANDEM_ASSIGN_OR_RETURN(auto directory, kv_store::AgentDirectory::Open(options.directory));
  TANDEM_ASSIGN_OR_RETURN(const auto server,
                          kv_store::AgentServer::Create(std::move(directory), store, stats_by_tier,
                                                        server_options, &neighbours, lease));
  // Others would keep KV where this one does not look any more.
  const LockWatch watch(held, [&] { server->Stop(); });
  signals.Watch([&](int) { server->Stop(); });
  spdlog::info("keeping KV in {}", options.directory);
  absl::Status status = server->Wait();
  signals.Unwatch();
  spdlog::info("the agent ends");
  return status;
}

absl::Status EndAgent(const AgentStopOptions& options) {
  TANDEM_ASSIGN_OR_RETURN(const bool there, StopAgent(options.state));
  const std::string path = AgentPath(options.state);
  WriteOutput(there ? fmt::format("the agent has written what it held in {}, and has ended\n", path)
                    : fmt::format("no agent keeps KV in {}\n", path));
  return absl::OkStatus();
}

}  // namespace tandem::launcher
