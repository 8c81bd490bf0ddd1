#pragma once

#include <cstdint>

namespace tandem::parallel {

/// How hosts exchange sums (HostExchange). The same on all of them.
struct ExchangeOptions {
  /// Sums of one message. Packed in 6 bytes each they stay below the 64 KiB that Open MPI's TCP
  /// sends at once; in larger messages a byte takes twice the time.
  int64_t segment = 10240;
  /// All hosts send all to all where that costs a host at most so many more bytes than sums by
  /// slices, which take one more way through the network.
  int64_t bytes_of_a_way = int64_t{16} << 10;
  /// From so many hosts on, fewer sums than so many a host go by MPI_Allreduce: what they cost is
  /// messages, and that sends the fewest. Tried with 4 and 8 lab hosts.
  int64_t many_hosts = 4;
  int64_t few_sums = 2048;
};

}  // namespace tandem::parallel
