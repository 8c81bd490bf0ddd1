#include "parallel/control/control_address.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <fstream>

namespace tandem::parallel {
namespace {

size_t AddressBytes(const NetworkAddress& address) { return address.ipv6 ? 16 : 4; }

/// The bytes of a socket address of either family.
const uint8_t* RawBytes(const sockaddr* address) {
  if (address->sa_family == AF_INET) {
    return reinterpret_cast<const uint8_t*>(
        &reinterpret_cast<const sockaddr_in*>(address)->sin_addr);
  }
  return reinterpret_cast<const uint8_t*>(
      &reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr);
}

std::string Listed(const std::vector<NetworkAddress>& addresses) {
  std::string list;
  for (const NetworkAddress& address : addresses) {
    list += fmt::format("{}{} ({})", list.empty() ? "" : ", ", address.text, address.interface);
  }
  return list.empty() ? "none" : list;
}

}  // namespace

std::vector<NetworkAddress> ListNetworkAddresses() {
  std::vector<NetworkAddress> addresses;
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return addresses;
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr || entry->ifa_netmask == nullptr) continue;
    if ((entry->ifa_flags & IFF_UP) == 0 || (entry->ifa_flags & IFF_LOOPBACK) != 0) continue;
    const int family = entry->ifa_addr->sa_family;
    if (family != AF_INET && family != AF_INET6) continue;
    NetworkAddress address;
    address.interface = entry->ifa_name;
    address.ipv6 = family == AF_INET6;
    std::memcpy(address.bytes.data(), RawBytes(entry->ifa_addr), AddressBytes(address));
    const bool link_local = address.ipv6
                                ? address.bytes[0] == 0xfe && (address.bytes[1] & 0xc0) == 0x80
                                : address.bytes[0] == 169 && address.bytes[1] == 254;
    if (link_local) continue;
    for (size_t i = 0; i < AddressBytes(address); ++i) {
      address.prefix += std::popcount(RawBytes(entry->ifa_netmask)[i]);
    }
    char text[INET6_ADDRSTRLEN] = {};
    if (inet_ntop(family, address.bytes.data(), text, sizeof(text)) == nullptr) continue;
    address.text = text;
    addresses.push_back(std::move(address));
  }
  freeifaddrs(list);
  return addresses;
}

std::string LocalNetworkIdentity() {
  std::string boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  char network[64] = {};
  const ssize_t size = readlink("/proc/self/ns/net", network, sizeof(network) - 1);
  return boot + " " + (size > 0 ? network : "");
}

bool SameNetwork(const NetworkAddress& a, const NetworkAddress& b) {
  if (a.ipv6 != b.ipv6) return false;
  for (int bit = 0; bit < a.prefix; ++bit) {
    const auto byte = static_cast<size_t>(bit / 8);
    const int mask = 0x80 >> (bit % 8);
    if ((a.bytes[byte] & mask) != (b.bytes[byte] & mask)) return false;
  }
  return true;
}

absl::StatusOr<std::vector<NetworkAddress>> ChooseControlAddresses(
    const std::string& wanted, const std::vector<NetworkAddress>& own,
    const std::vector<std::vector<NetworkAddress>>& others) {
  std::vector<NetworkAddress> chosen;
  if (!wanted.empty()) {
    std::copy_if(own.begin(), own.end(), std::back_inserter(chosen), [&](const auto& address) {
      return address.interface == wanted || address.text == wanted;
    });
    if (chosen.empty()) {
      return InvalidArgument(
          "control interface \"{}\" is neither an interface nor an address of rank 0's host; there "
          "are: {}",
          wanted, Listed(own));
    }
    return chosen;
  }
  const auto shared_by_all = [&](const NetworkAddress& address) {
    return std::all_of(others.begin(), others.end(), [&](const auto& other) {
      return std::any_of(other.begin(), other.end(), [&](const NetworkAddress& theirs) {
        return SameNetwork(address, theirs) && theirs.bytes != address.bytes;
      });
    });
  };
  std::copy_if(own.begin(), own.end(), std::back_inserter(chosen), shared_by_all);
  if (chosen.empty()) chosen = own;
  if (chosen.empty()) {
    return FailedPrecondition(
        "rank 0's host has no network address although ranks run on other hosts; bring an "
        "interface up");
  }
  return chosen;
}

}  // namespace tandem::parallel
