#include "parallel/control/zmq_control.h"

#include <sodium.h>

#include <algorithm>
#include <utility>

#include "parallel/communicators/agree_on_status.h"
#include "parallel/communicators/gather_messages.h"
#include "parallel/control/control_address.h"
#include "parallel/control/host_addresses.h"
#include "parallel/control/zmq_control_follower.h"
#include "parallel/control/zmq_control_leader.h"

namespace tandem::parallel {
namespace {

struct PublicKey {
  std::string text;  // Z85
};
template <typename Archive>
void Fields(Archive& archive, PublicKey& key) {
  archive(core::AtMost(key.text, 40, "characters of a key"));
}

/// What rank 0 binds: an abstract Unix socket (it leaves no file behind, and is private to the
/// network namespace) where nobody is elsewhere, else TCP with ports the system chooses.
absl::StatusOr<std::vector<std::string>> EndpointsToBind(const ZmqControlOptions& options,
                                                         const std::vector<HostAddresses>& hosts) {
  const std::vector<std::vector<NetworkAddress>> elsewhere = AddressesElsewhere(hosts[0], hosts);
  if (elsewhere.empty() && options.interface.empty()) {
    return std::vector<std::string>{fmt::format("ipc://@tandem-control-{:08x}{:08x}",
                                                randombytes_random(), randombytes_random())};
  }
  TANDEM_ASSIGN_OR_RETURN(const std::vector<NetworkAddress> addresses,
                          ChooseControlAddresses(options.interface, hosts[0].addresses, elsewhere));
  std::vector<std::string> endpoints;
  endpoints.reserve(addresses.size());
  for (const NetworkAddress& address : addresses) {
    endpoints.push_back("tcp://" + (address.ipv6 ? "[" + address.text + "]" : address.text) + ":*");
  }
  return endpoints;
}

const std::vector<std::string>& PlacesOf(const ZmqControlOptions& options,
                                         const Communicator& world) {
  return options.places.empty() ? world.hosts() : options.places;
}

absl::StatusOr<std::unique_ptr<ZmqControlLeader>> OpenLeader(
    const ZmqControlOptions& options, const kv_store::CurveKeys& keys,
    const std::vector<PublicKey>& all_keys, const std::vector<HostAddresses>& hosts,
    const Communicator& world) {
  TANDEM_ASSIGN_OR_RETURN(std::vector<std::string> endpoints, EndpointsToBind(options, hosts));
  std::vector<std::string> public_keys;
  public_keys.reserve(all_keys.size());
  for (const PublicKey& key : all_keys) public_keys.push_back(key.text);
  return ZmqControlLeader::Create({.hosts = PlacesOf(options, world),
                                   .public_keys = std::move(public_keys),
                                   .keys = keys,
                                   .endpoints = std::move(endpoints),
                                   .limits = options.limits,
                                   .board = options.board});
}

std::vector<std::string> Lines(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    lines.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return lines;
}

}  // namespace

absl::StatusOr<ControlEnd> ConnectZmqControl(const ZmqControlOptions& options,
                                             Communicator& world) {
  const kv_store::CurveKeys keys = kv_store::MakeCurveKeys();
  TANDEM_ASSIGN_OR_RETURN(const std::vector<HostAddresses> hosts, GatherHostAddresses(world));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<PublicKey> all_keys,
                          GatherMessages(world, PublicKey{keys.public_key}));
  absl::Status status;
  std::string endpoints;
  std::unique_ptr<ZmqControlLeader> leader;
  if (world.rank() == 0) {
    auto opened = OpenLeader(options, keys, all_keys, hosts, world);
    status = opened.status();
    if (opened.ok()) {
      leader = std::move(opened).value();
      for (const std::string& endpoint : leader->endpoints()) endpoints += endpoint + "\n";
    }
  }
  TANDEM_RETURN_IF_ERROR(AgreeOnStatus(world, status));
  TANDEM_RETURN_IF_ERROR(BroadcastString(world, endpoints));

  ControlEnd end;
  if (leader) {
    status = leader->WaitForFollowers(options.patience);
    end.leader = std::move(leader);
  } else {
    auto follower = ZmqControlFollower::Connect({.rank = world.rank(),
                                                 .leader_host = PlacesOf(options, world)[0],
                                                 .leader_key = all_keys[0].text,
                                                 .keys = keys,
                                                 .endpoints = Lines(endpoints),
                                                 .patience = options.patience,
                                                 .limits = options.limits,
                                                 .board = options.board});
    status = follower.status();
    if (follower.ok()) end.follower = std::move(follower).value();
  }
  TANDEM_RETURN_IF_ERROR(AgreeOnStatus(world, status));
  return end;
}

}  // namespace tandem::parallel
