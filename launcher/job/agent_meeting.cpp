#include "launcher/job/agent_meeting.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "kv_store/agent_link/agent_codec.h"
#include "parallel/control/control_address.h"
#include "parallel/control/host_addresses.h"

namespace tandem::launcher {
namespace {

using kv_store::AgentPeer;
using parallel::HostAddresses;

/// What a rank tells of its agent. It travels as its bytes: all ranks run the same build.
struct Card {
  char there;  // 0: this rank tells of none
  char host[256];
  char endpoint[257];
  char public_key[41];
};

template <size_t size>
void CopyText(const std::string& from, char (&to)[size]) {
  std::memcpy(to, from.data(), std::min(from.size(), size - 1));
}

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

absl::StatusOr<Card> ListenForOthers(HostKv& kv, const std::string& wanted,
                                     const HostAddresses& own,
                                     const std::vector<HostAddresses>& all) {
  TANDEM_ASSIGN_OR_RETURN(const std::string address, AddressForOthers(wanted, own, all));
  TANDEM_ASSIGN_OR_RETURN(const AgentPeer self, kv.agent().Listen(address));
  Card card{};
  card.there = 1;
  CopyText(self.host, card.host);
  CopyText(self.endpoint, card.endpoint);
  CopyText(self.public_key, card.public_key);
  return card;
}

}  // namespace

absl::Status MeetAgents(parallel::Communicator& world, HostKv* kv, const ModelOptions& options) {
  const std::vector<std::string>& hosts = world.hosts();
  const bool several = std::any_of(hosts.begin(), hosts.end(),
                                   [&](const std::string& host) { return host != hosts.front(); });
  const bool speaks = kv != nullptr && world.local_rank() == 0;
  const auto warn = [&](const absl::Status& status) {
    spdlog::warn("rank {} on {}: other hosts' KV: {}", world.rank(), world.host(), Message(status));
  };
  kv_store::AgentMeet meeting;
  meeting.copies = static_cast<uint32_t>(options.state.kv_replicas);
  if (several) {
    TANDEM_ASSIGN_OR_RETURN(const auto all, parallel::GatherHostAddresses(world));
    Card mine{};
    if (speaks) {
      const auto card = ListenForOthers(*kv, options.control_interface,
                                        all[static_cast<size_t>(world.rank())], all);
      if (card.ok()) {
        mine = *card;
      } else {
        warn(card.status());
      }
    }
    std::vector<Card> cards(static_cast<size_t>(world.size()));
    TANDEM_RETURN_IF_ERROR(world.AllGather(std::as_bytes(std::span(&mine, 1)),
                                           std::as_writable_bytes(std::span(cards)), {}));
    for (const Card& card : cards) {
      if (card.there == 0 || std::strcmp(card.public_key, mine.public_key) == 0) continue;
      meeting.peers.push_back(
          {.host = card.host, .endpoint = card.endpoint, .public_key = card.public_key});
    }
    // No agent remembers more; it gets those of the first ranks.
    if (meeting.peers.size() > kv_store::kMostAgentPeers) {
      meeting.peers.resize(kv_store::kMostAgentPeers);
    }
  } else if (meeting.copies > 1 && world.rank() == 0) {
    spdlog::warn("--kv-replicas {}: the job has one host, so there is no second copy of KV",
                 meeting.copies);
  }
  if (!speaks) return absl::OkStatus();
  const size_t peers = meeting.peers.size();
  if (const absl::Status met = kv->agent().Meet(std::move(meeting)); !met.ok()) warn(met);
  if (peers > 0) {
    spdlog::info("the KV agent of {} serves those of {} other hosts", world.host(), peers);
  }
  return absl::OkStatus();
}

}  // namespace tandem::launcher
