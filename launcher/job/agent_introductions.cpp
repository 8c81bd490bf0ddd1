#include "launcher/job/agent_introductions.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/base/counted.h"
#include "kv_store/agent_link/agent_codec.h"
#include "parallel/communicators/gather_messages.h"
#include "parallel/control/control_address.h"
#include "parallel/control/host_addresses.h"

namespace tandem::launcher {
namespace {

using kv_store::AgentPeer;
using parallel::HostAddresses;

/// The best address of this host for those of other hosts.
absl::StatusOr<std::string> AddressForOthers(const std::string& wanted, const HostAddresses& own,
                                             const std::vector<HostAddresses>& all) {
  const auto elsewhere = parallel::AddressesElsewhere(own, all);
  if (elsewhere.empty()) return std::string("127.0.0.1");
  auto chosen = parallel::ChooseControlAddresses(wanted, own.addresses, elsewhere);
  // An address that was asked for is rank 0's.
  if (absl::IsInvalidArgument(chosen.status())) {
    chosen = parallel::ChooseControlAddresses("", own.addresses, elsewhere);
  }
  TANDEM_RETURN_IF_ERROR(chosen.status());
  return chosen->front().text;
}

absl::StatusOr<AgentPeer> ListenForOthers(HostKv& kv, const std::string& wanted,
                                          const HostAddresses& own,
                                          const std::vector<HostAddresses>& all) {
  TANDEM_ASSIGN_OR_RETURN(const std::string address, AddressForOthers(wanted, own, all));
  return kv.agent().Listen(address);
}

}  // namespace

absl::Status IntroduceAgents(parallel::Communicator& world, HostKv* kv,
                             const ModelOptions& options) {
  const std::vector<std::string>& hosts = world.hosts();
  const bool several = std::any_of(hosts.begin(), hosts.end(),
                                   [&](const std::string& host) { return host != hosts.front(); });
  const bool speaks = kv != nullptr && world.local_rank() == 0;
  const auto warn = [&](const absl::Status& status) {
    spdlog::warn("rank {} on {}: other hosts' KV: {}", world.rank(), world.host(), Message(status));
  };
  kv_store::AgentIntroduction introduction;
  introduction.copies = static_cast<uint32_t>(options.state.kv_replicas);
  if (several) {
    TANDEM_ASSIGN_OR_RETURN(const auto all, parallel::GatherHostAddresses(world));
    std::optional<AgentPeer> mine;  // none: this rank tells of none
    if (speaks) {
      const auto self = ListenForOthers(*kv, options.control_interface,
                                        all[static_cast<size_t>(world.rank())], all);
      if (self.ok()) {
        mine = *self;
      } else {
        warn(self.status());
      }
    }
    TANDEM_ASSIGN_OR_RETURN(const auto peers, parallel::GatherMessages(world, mine));
    for (const std::optional<AgentPeer>& peer : peers) {
      if (!peer || (mine && peer->public_key == mine->public_key)) continue;
      introduction.peers.push_back(*peer);
    }
    // No agent remembers more; it gets those of the first ranks.
    if (introduction.peers.size() > kv_store::kMostAgentPeers) {
      introduction.peers.resize(kv_store::kMostAgentPeers);
    }
  } else if (introduction.copies > 1 && world.rank() == 0) {
    spdlog::warn("--kv-replicas {}: the job has one host, so there is no second copy of KV",
                 introduction.copies);
  }
  if (!speaks) return absl::OkStatus();
  const size_t peers = introduction.peers.size();
  if (const absl::Status met = kv->agent().Introduce(std::move(introduction)); !met.ok()) warn(met);
  if (peers > 0) {
    spdlog::info("the KV agent of {} serves those of {}", world.host(),
                 Counted(static_cast<int64_t>(peers), "other host"));
  }
  return absl::OkStatus();
}

}  // namespace tandem::launcher
