#include "parallel/control/host_addresses.h"

#include "parallel/communicators/gather_messages.h"

namespace tandem::parallel {
namespace {

constexpr size_t kMostAddresses = 16;
constexpr size_t kLongestText = 1024;

}  // namespace

template <typename Archive>
void Fields(Archive& archive, NetworkAddress& address) {
  archive(core::AtMost(address.interface, kLongestText, "bytes of an interface's name"),
          core::AtMost(address.text, kLongestText, "bytes of an address"), address.ipv6,
          address.bytes, address.prefix);
}

template <typename Archive>
void Fields(Archive& archive, HostAddresses& host) {
  archive(core::AtMost(host.network, kLongestText, "bytes of a network's identity"),
          core::AtMost(host.addresses, kMostAddresses, "addresses"));
}

absl::StatusOr<std::vector<HostAddresses>> GatherHostAddresses(Communicator& world) {
  HostAddresses mine{.network = LocalNetworkIdentity(), .addresses = ListNetworkAddresses()};
  if (mine.addresses.size() > kMostAddresses) mine.addresses.resize(kMostAddresses);
  return GatherMessages(world, mine);
}

std::vector<std::vector<NetworkAddress>> AddressesElsewhere(const HostAddresses& of,
                                                            const std::vector<HostAddresses>& all) {
  std::vector<std::vector<NetworkAddress>> elsewhere;
  for (const HostAddresses& host : all) {
    if (host.network != of.network) elsewhere.push_back(host.addresses);
  }
  return elsewhere;
}

}  // namespace tandem::parallel
