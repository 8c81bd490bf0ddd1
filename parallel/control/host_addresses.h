#pragma once

#include <string>
#include <vector>

#include "core/base/status.h"
#include "parallel/communicators/communicator.h"
#include "parallel/control/control_address.h"

namespace tandem::parallel {

/// Where the host of a rank can be reached.
struct HostAddresses {
  std::string network;                    // LocalNetworkIdentity
  std::vector<NetworkAddress> addresses;  // ListNetworkAddresses, 16 at most
};

/// Of every rank, on every rank; all ranks call it together. [ranks]
absl::StatusOr<std::vector<HostAddresses>> GatherHostAddresses(Communicator& world);

/// The addresses of the ranks that `of` does not reach through its own machine's sockets alone.
std::vector<std::vector<NetworkAddress>> AddressesElsewhere(const HostAddresses& of,
                                                            const std::vector<HostAddresses>& all);

}  // namespace tandem::parallel
