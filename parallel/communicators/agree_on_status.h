#pragma once

#include "core/base/status.h"
#include "parallel/communicators/communicator.h"

namespace tandem::parallel {

/// The first rank's error on all ranks, "rank 2 on host n3: ...", or OK. A deadline, in which a
/// rank waited for others in vain, is told only where no rank has another error. Called by all
/// together.
absl::Status AgreeOnStatus(Communicator& world, const absl::Status& mine);

}  // namespace tandem::parallel
