#pragma once

#include <cstdint>

namespace tandem::parallel {

/// How hosts exchange sums (HostExchange). The same on all of them.
struct ExchangeOptions {
  /// Sums of one message. Packed in 6 bytes each they stay below the 64 KiB that Open MPI's TCP
  /// sends at once; in larger messages a byte takes twice the time.
  int64_t segment = 10240;
  /// Slices take one more way through the network than sending everything to everyone. If that
  /// costs a host at most this many bytes more than slices, hosts send everything to everyone.
  int64_t bytes_of_a_way = int64_t{16} << 10;
  /// With many_hosts or more, fewer than few_sums sums a host go by MPI_Allreduce, which sends the
  /// fewest messages. Tried with 4 and 8 lab hosts.
  int64_t many_hosts = 4;
  int64_t few_sums = 2048;
};

}  // namespace tandem::parallel
