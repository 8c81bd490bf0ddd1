#include "parallel/control/host_addresses.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <utility>

namespace tandem::parallel {
namespace {

constexpr size_t kMostAddresses = 16;

/// As it lies in memory: all ranks run the same build.
struct Card {
  struct Address {
    char interface[16];
    char text[46];
    uint8_t ipv6;
    uint8_t bytes[16];
    int32_t prefix;
  };
  char network[128];
  int32_t address_count;
  Address addresses[kMostAddresses];
};

template <size_t size>
void CopyText(const std::string& from, char (&to)[size]) {
  std::memcpy(to, from.data(), std::min(from.size(), size - 1));
}

Card MakeCard() {
  Card card{};
  CopyText(LocalNetworkIdentity(), card.network);
  for (const NetworkAddress& address : ListNetworkAddresses()) {
    if (static_cast<size_t>(card.address_count) == kMostAddresses) break;
    Card::Address& to = card.addresses[card.address_count++];
    CopyText(address.interface, to.interface);
    CopyText(address.text, to.text);
    to.ipv6 = address.ipv6 ? 1 : 0;
    std::copy(address.bytes.begin(), address.bytes.end(), to.bytes);
    to.prefix = address.prefix;
  }
  return card;
}

HostAddresses AddressesOn(const Card& card) {
  HostAddresses host{.network = card.network, .addresses = {}};
  for (int32_t i = 0; i < card.address_count; ++i) {
    const Card::Address& from = card.addresses[i];
    NetworkAddress address{.interface = from.interface,
                           .text = from.text,
                           .ipv6 = from.ipv6 != 0,
                           .bytes = {},
                           .prefix = from.prefix};
    std::copy(std::begin(from.bytes), std::end(from.bytes), address.bytes.begin());
    host.addresses.push_back(std::move(address));
  }
  return host;
}

}  // namespace

absl::StatusOr<std::vector<HostAddresses>> GatherHostAddresses(Communicator& world) {
  const Card mine = MakeCard();
  std::vector<Card> cards(static_cast<size_t>(world.size()));
  TANDEM_RETURN_IF_ERROR(world.AllGather(std::as_bytes(std::span(&mine, 1)),
                                         std::as_writable_bytes(std::span(cards)), {}));
  std::vector<HostAddresses> all;
  for (const Card& card : cards) all.push_back(AddressesOn(card));
  return all;
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
