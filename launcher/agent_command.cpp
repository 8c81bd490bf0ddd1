#include <sched.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <chrono>
#include <cstring>

#include "kv_store/agent_server.h"
#include "kv_store/disk_tier.h"
#include "kv_store/tiered_store.h"
#include "launcher/commands.h"
#include "launcher/stop_signals.h"

namespace tandem::launcher {
namespace {

using std::chrono::milliseconds;

/// The rank that starts the agent may be bound to a core; the agent is there for all ranks.
void UseAllCores() {
  cpu_set_t all;
  std::memset(&all, 0xff, sizeof(all));
  sched_setaffinity(0, sizeof(all), &all);
}

/// What is on disk. None, and the log says why, where that cannot be had: memory alone is of use
/// too.
std::vector<kv_store::TieredStore::Behind> DiskOf(const AgentOptions& options) {
  std::vector<kv_store::TieredStore::Behind> behind;
  if (options.state.kv_disk == 0) return behind;
  // Files hold a tenth more than their records until that is collected.
  auto disk = kv_store::DiskTier::Open({.directory = options.directory + "/records",
                                        .limits = {.bytes = options.state.kv_disk / 11 * 10,
                                                   .tenant_bytes = options.state.kv_tenant}});
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

}  // namespace

absl::Status Agent(const AgentOptions& options) {
  umask(S_IRWXG | S_IRWXO);
  UseAllCores();
  const auto policy = kv_store::ParseWritePolicy(options.state.kv_write);
  if (!policy) return InvalidArgument("--kv-write {}: unknown", options.state.kv_write);
  StopSignals signals;
  TANDEM_ASSIGN_OR_RETURN(auto directory, kv_store::AgentDirectory::Open(options.directory));
  // Several ranks may start one at the same time; the first to come stays.
  if (const absl::Status locked = directory.Lock(); !locked.ok()) {
    return absl::IsFailedPrecondition(locked) ? absl::OkStatus() : locked;
  }
  kv_store::TieredStore store(
      {.host = {.bytes = options.state.kv_host_memory, .tenant_bytes = options.state.kv_tenant},
       .policy = *policy},
      DiskOf(options));
  kv_store::AgentServerOptions server_options;
  server_options.ttl = std::chrono::duration_cast<milliseconds>(
      std::chrono::duration<double>(options.state.agent_ttl));
  TANDEM_ASSIGN_OR_RETURN(
      const auto server,
      kv_store::AgentServer::Create(
          std::move(directory), store, [&store] { return store.StatsByTier(); }, server_options));
  signals.Watch([&](int) { server->Stop(); });
  spdlog::info("keeping KV in {}", options.directory);
  const absl::Status status = server->Wait();
  signals.Unwatch();
  spdlog::info("the agent ends");
  return status;
}

}  // namespace tandem::launcher
