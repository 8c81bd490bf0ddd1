#pragma once

#include <cstdint>

#include "core/base/status.h"

namespace tandem {

/// Gives this process, and those that it starts, as many file descriptors as it may take (the hard
/// limit, up to a million), instead of the few that shells give. Says how many it has then. Thread
/// safety: before other threads open files.
int64_t RaiseDescriptorLimit();

/// How many file descriptors this process may have (`ulimit -n`).
int64_t DescriptorLimit();

/// How many it has open; 0 where that cannot be found out.
int64_t OpenDescriptors();

/// What a server does with file descriptors for connections.
struct ConnectionShare {
  int64_t served = 0;
  int64_t told = 0;  // beside them, that are open while they hear that there is no place
};

/// No more of either than there are file descriptors for, which are at least one.
ConnectionShare ShareDescriptors(int64_t descriptors, ConnectionShare wanted);

/// kFailedPrecondition if this process may have fewer than it needs.
absl::Status CheckDescriptors(int64_t needed);

}  // namespace tandem
