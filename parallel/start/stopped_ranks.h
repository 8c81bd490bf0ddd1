#pragma once

#include <string>

namespace tandem::parallel {

/// The ranks of this job on this host that are stopped or wait for a disk: "rank 1 (process 4711)
/// is stopped"; empty if there are none, or the system does not tell.
std::string StoppedRanksHere();

}  // namespace tandem::parallel
