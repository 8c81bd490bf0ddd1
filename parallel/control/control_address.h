#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "core/base/status.h"

namespace tandem::parallel {

/// One address of this machine that others may reach.
struct NetworkAddress {
  std::string interface;  // "eth0"
  std::string text;       // "10.0.0.1", "fd00::1"
  bool ipv6 = false;
  std::array<uint8_t, 16> bytes{};  // network order; 4 of them for IPv4
  int prefix = 0;                   // bits of the network part
};

/// Addresses of interfaces that are up, without loopback and link-local ones.
std::vector<NetworkAddress> ListNetworkAddresses();

/// A text that is equal for processes which reach each other through this machine's own sockets
/// alone: the same boot of the same kernel, in the same network namespace.
std::string LocalNetworkIdentity();

/// Whether b lies in the network of a.
bool SameNetwork(const NetworkAddress& a, const NetworkAddress& b);

/// The addresses of rank 0 on which the others should try to reach it, best first.
///
/// wanted: an interface name or an address of `own`, or empty. If it is empty, an address qualifies
/// when every other host has a different address in its network. (On a bridge that all hosts have
/// alike, they have the same one.) If none qualifies (a routed network), all addresses are tried.
/// others: addresses of each rank on another host.
/// kInvalidArgument, listing what there is, if `wanted` is not here; kFailedPrecondition if this
/// machine has no address.
absl::StatusOr<std::vector<NetworkAddress>> ChooseControlAddresses(
    const std::string& wanted, const std::vector<NetworkAddress>& own,
    const std::vector<std::vector<NetworkAddress>>& others);

}  // namespace tandem::parallel
