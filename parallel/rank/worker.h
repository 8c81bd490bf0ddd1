#pragma once

#include <cstdint>

#include "core/base/status.h"
#include "parallel/control/control_channel.h"
#include "parallel/rank/rank_runner.h"

namespace tandem::parallel {

/// A follower's life: receive a plan, execute it, acknowledge it. OK when a plan says stop. Any
/// other end is an error, told to rank 0 (unless that is what is gone): the caller then ends the
/// process, since the other ranks would wait for this one. One thread calls.
absl::Status FollowPlans(ControlFollower& channel, RankRunner& runner, uint64_t epoch);

}  // namespace tandem::parallel
